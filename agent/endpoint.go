// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy"
)

// isOwnPort says whether a port is a daemon's: one of those that it has by default,
// or one that this one has. Nothing is dialled there on the node, by "exec"
// neither: a policy does not lead to egressd.
func (a *Agent) isOwnPort(port uint16) bool {
	switch port {
	case adminPort, proxyPort, dnsPort:
		return true
	}
	for _, address := range []string{DefaultStatusAddress, DefaultHealthAddress, a.opts.StatusAddress, a.opts.HealthAddress, a.opts.AdminAddress} {
		if _, p, err := net.SplitHostPort(address); err == nil && p == strconv.Itoa(int(port)) {
			return true
		}
	}
	if a.sockets == nil {
		return false
	}
	ports := a.sockets.Ports()
	return port == ports.Proxy || port == ports.DNSTCP
}

// own says whether an address is one where an egressd of this node listens.
func (a *Agent) own(ap netip.AddrPort) bool {
	if !a.isOwnPort(ap.Port()) {
		return false
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.IsLoopback() || addr.IsUnspecified() || addr.Is4() && addr.As4()[0] == 0 {
		return true
	}
	return a.addresses.Has(addr)
}

// allowsSocket says whether a unix socket may be dialled, by its path with all
// links resolved: the operator has allowed it, and it is none of an egressd.
func (a *Agent) allowsSocket(socket string) bool {
	return !a.ownSocket(socket) && policy.NewConsent(a.opts.AllowEndpoints).Socket(socket)
}

// ownSocket says whether a socket is in the state directory of an egressd.
func (a *Agent) ownSocket(socket string) bool {
	for _, dir := range []string{a.opts.StateDir, DefaultStateDir} {
		if real, err := filepath.EvalSymlinks(dir); err == nil && strings.HasPrefix(socket, real+"/") {
			return true
		}
	}
	// The one of a daemon with a state directory of its own.
	_, err := os.Stat(filepath.Join(filepath.Dir(socket), LockFile))
	return filepath.Base(socket) == AdminSocket && err == nil
}

// isOwnDNS says whether a server is one of egressd's own DNS listeners, which
// answer nobody but who was redirected to them.
func (a *Agent) isOwnDNS(server netip.AddrPort) bool {
	ports := a.sockets.Ports()
	addr := server.Addr().Unmap()
	if !addr.IsLoopback() && !addr.IsUnspecified() && !a.addresses.Has(addr) {
		return false
	}
	return server.Port() == ports.DNSTCP || slices.Contains(ports.DNSUDP[:], server.Port())
}
