// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/world"
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

// Alone attaches to a hook of a cgroup a program that allows everything and lets no
// other program be there, until the function that it returns is called.
func Alone(t testing.TB, cg *world.Cgroup, hook string) (detach func()) {
	t.Helper()
	at, ok := aloneAt[hook]
	if !ok {
		t.Fatalf("no hook %s", hook)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "alone", Type: at.program, AttachType: at.attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: cg.FD(), Program: p, Attach: at.attach}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: cg.FD(), Program: p, Attach: at.attach}); err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
