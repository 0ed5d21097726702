// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// aloneAt are hooks of a cgroup by the names of egressd's programs for them.
var aloneAt = map[string]struct {
	program ebpf.ProgramType
	attach  ebpf.AttachType
}{
	"sock_ops":    {ebpf.SockOps, ebpf.AttachCGroupSockOps},
	"skb_egress":  {ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress},
	"bind6":       {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Bind},
	"sock_create": {ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
	"sendmsg4":    {ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg},
	"connect4":    {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect},
	"connect6":    {ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect},
}

// Alone attaches to a hook of a cgroup a program of somebody else that allows
// everything and lets no other one be there or below. It returns its id; it goes
// with the test, or when detach is called.
func Alone(t testing.TB, cgroup, hook string) (id uint32, detach func()) {
	t.Helper()
	at, ok := aloneAt[hook]
	if !ok {
		t.Fatalf("no hook %s", hook)
	}
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "alone", Type: at.program, AttachType: at.attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: at.attach}); err != nil {
		t.Fatal(err)
	}
	attached := true
	detach = func() {
		if !attached {
			return
		}
		attached = false
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p, Attach: at.attach}); err != nil {
			t.Error(err)
		}
		if err := errors.Join(p.Close(), dir.Close()); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(detach)
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	n, _ := info.ID()
	return uint32(n), detach
}
