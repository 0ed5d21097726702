// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/gate"
	"github.com/egressd/egressd/loader"
)

// openGates makes sure of an address of each family for the sockets of other
// network namespaces. Without one those are refused (foreign-netns), which is
// no reason not to start.
func openGates(log *slog.Logger) []netip.Addr {
	var gates []netip.Addr
	for _, lo := range loopbacks() {
		family := unix.AF_INET
		if lo.Is6() {
			family = unix.AF_INET6
		}
		addr, err := gate.Ensure(family)
		if err != nil {
			log.Warn("no gate: what pods and containers with a network namespace of their own send to the proxy and to DNS is refused",
				"ipv6", lo.Is6(), "error", err)
			continue
		}
		gates = append(gates, addr)
	}
	return gates
}

// gates lists the addresses that the listeners have for other network namespaces.
func (a *Agent) gates() []netip.Addr {
	l := a.sockets
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

// keepGates puts back a gate that somebody took away: what is redirected to it
// would leave by the uplink. If it can't be, nothing is redirected there.
func (a *Agent) keepGates() {
	for _, g := range a.gates() {
		missing, err := gate.Missing(g)
		if err == nil && !missing {
			continue
		}
		if err == nil {
			a.log.Warn("a gate address was removed; it is put back", "address", g)
			err = gate.Restore(g)
		}
		if err != nil {
			a.log.Error("a gate address could not be kept; other network namespaces are refused", "address", g, "error", err)
			if err := a.datapath.SetListeners(a.sockets.without(g)); err != nil {
				a.log.Error("the gate could not be closed", "error", err)
			}
		}
	}
}

// without closes a gate and returns what is left.
func (l *listeners) without(gate netip.Addr) loader.Listeners {
	l.mu.Lock()
	defer l.mu.Unlock()
	if gate.Is4() {
		l.ports.Gate4 = netip.Addr{}
	} else {
		l.ports.Gate6 = netip.Addr{}
	}
	return l.ports
}

// RemoveGates takes away the gate addresses that a daemon left in the calling
// process's network namespace.
func RemoveGates() error { return gate.Remove() }
