// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"strconv"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/tc"
)

// hook is one program and the place where it is attached.
type hook struct {
	name   string
	prog   *ebpf.Program
	attach ebpf.AttachType
}

// hooks lists the programs in the order in which they are attached: what
// publishes and restores comes before what redirects, so that no flow is
// redirected without its original destination being recorded.
func (d *Datapath) hooks() []hook {
	p := &d.objs.EgressdPrograms
	return []hook{
		{"egd_sock_ops", p.EgdSockOps, ebpf.AttachCGroupSockOps},
		{"egd_skb_egress", p.EgdSkbEgress, ebpf.AttachCGroupInetEgress},
		{"egd_sock_release", p.EgdSockRelease, ebpf.AttachCgroupInetSockRelease},
		{"egd_recvmsg4", p.EgdRecvmsg4, ebpf.AttachCGroupUDP4Recvmsg},
		{"egd_recvmsg6", p.EgdRecvmsg6, ebpf.AttachCGroupUDP6Recvmsg},
		{"egd_peername4", p.EgdPeername4, ebpf.AttachCgroupInet4GetPeername},
		{"egd_peername6", p.EgdPeername6, ebpf.AttachCgroupInet6GetPeername},
		{"egd_bind4", p.EgdBind4, ebpf.AttachCGroupInet4Bind},
		{"egd_bind6", p.EgdBind6, ebpf.AttachCGroupInet6Bind},
		{"egd_setsockopt", p.EgdSetsockopt, ebpf.AttachCGroupSetsockopt},
		{"egd_sock_create", p.EgdSockCreate, ebpf.AttachCGroupInetSockCreate},
		{"egd_sendmsg4", p.EgdSendmsg4, ebpf.AttachCGroupUDP4Sendmsg},
		{"egd_sendmsg6", p.EgdSendmsg6, ebpf.AttachCGroupUDP6Sendmsg},
		{"egd_connect4", p.EgdConnect4, ebpf.AttachCGroupInet4Connect},
		{"egd_connect6", p.EgdConnect6, ebpf.AttachCGroupInet6Connect},
	}
}

// tcPrograms lists the programs of a kind in the order in which they are
// attached: who answers others is known before what it sends is looked at.
func (d *Datapath) tcPrograms(k InterfaceKind) []tc.InterfaceProgram {
	p := &d.objs.EgressdPrograms
	uplink := tc.InterfaceProgram{Name: "egd_tc_uplink", Prog: p.EgdTcUplink, Attach: ebpf.AttachTCXEgress}
	switch k {
	case Uplink:
		return []tc.InterfaceProgram{uplink}
	case Peer:
		return []tc.InterfaceProgram{uplink, {Name: "egd_tc_frames", Prog: p.EgdTcFrames, Attach: ebpf.AttachTCXIngress}}
	}
	return []tc.InterfaceProgram{
		{Name: "egd_tc_to", Prog: p.EgdTcTo, Attach: ebpf.AttachTCXEgress},
		{Name: "egd_tc_from", Prog: p.EgdTcFrom, Attach: ebpf.AttachTCXIngress},
	}
}

// tcPin is the name of a pinned TCX link: the interface's index tells two
// apart whose names are the same, one after the other.
func tcPin(program string, index int) string {
	return bpffs.LinkPrefix + program + "_" + strconv.Itoa(index)
}
