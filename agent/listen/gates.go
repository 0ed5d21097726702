// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/gate"
	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/loader"
)

// OpenGates makes sure of an address of each family for the sockets of other
// network namespaces. Without one those are refused (foreign-netns), which is
// no reason not to start.
func OpenGates(log *slog.Logger) []netip.Addr {
	var gates []netip.Addr
	for _, lo := range link.Loopbacks() {
		family := unix.AF_INET
		if lo.Is6() {
			family = unix.AF_INET6
		}
		addr, err := gate.Ensure(family)
		if err != nil {
			log.Warn("no listener address can be reached from pods and containers; their proxied traffic and DNS are refused, and what goes straight is not affected",
				"ipv6", lo.Is6(), "error", err)
			continue
		}
		gates = append(gates, addr)
	}
	return gates
}

// Gates lists the addresses that the listeners have for other network namespaces.
func (l *Set) Gates() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []netip.Addr
	for _, g := range []netip.Addr{l.ports.Gate4, l.ports.Gate6} {
		if g.IsValid() {
			out = append(out, g)
		}
	}
	return out
}

// Gatekeeper looks after addresses of the node.
type Gatekeeper interface {
	Missing(netip.Addr) (bool, error)
	Restore(netip.Addr) error
}

// KeepGates puts back a gate that somebody took away: what is redirected to it
// would leave by the uplink. If it can't be, tell is given what is left, so that
// nothing is redirected there.
func (l *Set) KeepGates(at Gatekeeper, tell func(loader.Listeners) error) {
	for _, g := range l.Gates() {
		missing, err := at.Missing(g)
		if err == nil && !missing {
			continue
		}
		if err == nil {
			l.log.Warn("the address at which pods and containers reach egressd was removed from lo; egressd adds it again", "address", g)
			err = at.Restore(g)
		}
		if err != nil {
			l.log.Error("the address at which pods and containers reach egressd could not be kept on lo; their proxied traffic and DNS are refused", "address", g, "error", err)
			if err := tell(l.without(g)); err != nil {
				l.log.Error("the kernel could not be told that a listener address is gone; proxied traffic and DNS of pods and containers may time out", "error", err)
			}
		}
	}
}

// without closes a gate and returns what is left.
func (l *Set) without(gate netip.Addr) loader.Listeners {
	l.mu.Lock()
	defer l.mu.Unlock()
	if gate.Is4() {
		l.ports.Gate4 = netip.Addr{}
	} else {
		l.ports.Gate6 = netip.Addr{}
	}
	return l.ports
}

// NodeGates keeps the gates of the calling process's network namespace.
type NodeGates struct{}

// Missing implements Gatekeeper.
func (NodeGates) Missing(a netip.Addr) (bool, error) { return gate.Missing(a) }

// Restore implements Gatekeeper.
func (NodeGates) Restore(a netip.Addr) error { return gate.Restore(a) }
