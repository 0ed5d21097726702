// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"

	"github.com/cilium/ebpf/link"
)

// InterfaceKind says what is on the other side of an interface.
type InterfaceKind uint8

// The kinds.
const (
	// WorkloadInterface: what comes in by the interface is a workload's, which has no
	// sockets in this kernel or is not to be trusted to use them.
	WorkloadInterface InterfaceKind = iota
	// Uplink: the interface leads elsewhere. Only frames that did not come from
	// the IP stack are looked at.
	Uplink
	// Peer: the other end is in another network namespace. Frames that come in by it are
	// looked at as well: they have the packet socket that sent them there.
	Peer
)

func (k InterfaceKind) String() string {
	switch k {
	case Uplink:
		return "uplink"
	case Peer:
		return "peer"
	}
	return "workload"
}

// Interface is a network interface of the daemon's network namespace that is
// to be guarded.
type Interface struct {
	Index int
	Name  string
	Kind  InterfaceKind
	// L3: its packets have no link-layer header (tun).
	L3 bool
	// Workload is who is behind it; not for uplinks.
	Workload WorkloadState
	// Share is how many flows it may have; 0: a quarter of the table.
	Share uint32
}

// guardedInterface is a guarded interface.
type guardedInterface struct {
	Interface
	// links are the TCX links by the name of the program; empty where the
	// programs are filters of the clsact qdisc.
	links map[string]link.Link
}

func (g *guardedInterface) close() error {
	var err error
	for _, l := range g.links {
		err = errors.Join(err, l.Close())
	}
	return err
}
