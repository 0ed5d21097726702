// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Members of struct bpf_sock_addr.
const (
	userIP4 = 4
	userIP6 = 8
)

// Rewriter is the name of the programs of Rewrite.
const Rewriter = "rewriter"

// Rewrite attaches a program of somebody else to connect() and sendto() of a cgroup,
// behind those that are there, that writes an address in the place of every
// destination of its family. v6 takes an IPv4 address as well, for v4-mapped
// sockets. The programs go with the test, or when detach is called.
func Rewrite(t testing.TB, cgroup string, v4, v6 netip.Addr) (detach func()) {
	t.Helper()
	var links []link.Link
	detach = func() {
		for _, l := range links {
			l.Close()
		}
		links = nil
	}
	t.Cleanup(detach)
	for attach, to := range map[ebpf.AttachType]netip.Addr{
		ebpf.AttachCGroupInet4Connect: v4, ebpf.AttachCGroupUDP4Sendmsg: v4,
		ebpf.AttachCGroupInet6Connect: v6, ebpf.AttachCGroupUDP6Sendmsg: v6,
	} {
		p := rewriter(t, attach, to)
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: attach, Program: p})
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, l)
		p.Close() // the link has it
	}
	return detach
}

func rewriter(t testing.TB, attach ebpf.AttachType, to netip.Addr) *ebpf.Program {
	t.Helper()
	at, bytes := int16(userIP6), to.As16()
	words := bytes[:]
	if attach == ebpf.AttachCGroupInet4Connect || attach == ebpf.AttachCGroupUDP4Sendmsg {
		at, words = userIP4, to.AsSlice()
	}
	var code asm.Instructions
	for i := 0; i < len(words); i += 4 {
		code = append(code,
			asm.Mov.Imm32(asm.R2, int32(binary.NativeEndian.Uint32(words[i:]))),
			asm.StoreMem(asm.R1, at+int16(i), asm.R2, asm.Word))
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: Rewriter, Type: ebpf.CGroupSockAddr, AttachType: attach, License: "Apache-2.0",
		Instructions: append(code, asm.Mov.Imm(asm.R0, 1), asm.Return()),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// DetachLink takes the link that is pinned at path from where it is attached, as
// "bpftool link detach" does.
func DetachLink(t testing.TB, path string) {
	t.Helper()
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
}
