// SPDX-License-Identifier: Apache-2.0

// Package own knows which addresses are the node's own, and what there is an
// egressd's: a policy leads to neither.
package own

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/agent/listen"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// Self is what the egressds of this node listen on.
type Self struct {
	// StateDirs are the state directories of this egressd and of a daemon.
	StateDirs []string
	// Interfaces are the addresses of the HTTP interfaces of this egressd and of a
	// daemon, as in admin.Addresses.
	Interfaces []string
	// Ports are those of this egressd's listeners.
	Ports func() loader.Listeners
	// Node says whether an address is the node's.
	Node func(netip.Addr) bool
	// Consent is what the operator lets the policy lead to on the node.
	Consent policy.Consent
}

// isPort says whether a port is a daemon's: one of those that it has by default, or
// one that this one has. Nothing is dialled there on the node, by "exec" neither: a
// policy does not lead to egressd.
func (s Self) isPort(port uint16) bool {
	switch port {
	case listen.AdminPort, listen.ProxyPort, listen.DNSPort:
		return true
	}
	for _, address := range s.Interfaces {
		if _, p, err := net.SplitHostPort(address); err == nil && p == strconv.Itoa(int(port)) {
			return true
		}
	}
	ports := s.Ports()
	return port == ports.Proxy || port == ports.DNSTCP
}

// Listens says whether an address is one where an egressd of this node listens.
func (s Self) Listens(at netip.AddrPort) bool {
	if !s.isPort(at.Port()) {
		return false
	}
	addr := at.Addr().Unmap().WithZone("")
	if addr.IsLoopback() || addr.IsUnspecified() || addr.Is4() && addr.As4()[0] == 0 {
		return true
	}
	return s.Node(addr)
}

// AllowsSocket says whether a unix socket may be dialled, by its path with all
// links resolved: the operator has allowed it, and it is none of an egressd.
func (s Self) AllowsSocket(socket string) bool {
	return !s.ownSocket(socket) && s.Consent.Socket(socket)
}

// ownSocket says whether a socket is in the state directory of an egressd.
func (s Self) ownSocket(socket string) bool {
	for _, dir := range s.StateDirs {
		if real, err := filepath.EvalSymlinks(dir); err == nil && strings.HasPrefix(socket, real+"/") {
			return true
		}
	}
	// The one of a daemon with a state directory of its own.
	_, err := os.Stat(filepath.Join(filepath.Dir(socket), state.LockFile))
	return filepath.Base(socket) == state.AdminSocket && err == nil
}

// IsDNS says whether a server is one of egressd's own DNS listeners, which answer
// nobody but who was redirected to them.
func (s Self) IsDNS(server netip.AddrPort) bool {
	ports := s.Ports()
	addr := server.Addr().Unmap()
	if !addr.IsLoopback() && !addr.IsUnspecified() && !s.Node(addr) {
		return false
	}
	return server.Port() == ports.DNSTCP || slices.Contains(ports.DNSUDP[:], server.Port())
}
