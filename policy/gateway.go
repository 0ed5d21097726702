// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/egressd/egressd/internal/hostname"
)

// GatewayListener is one address and port that this node's gateway listens
// on, with the servers of all Gateways that share it. It is immutable.
type GatewayListener struct {
	Port uint16
	// Bind is the address to listen on; invalid: all addresses.
	Bind netip.Addr
	// Protocol is that of the first server; all are plain-text HTTP.
	Protocol Protocol
	// Servers are in the order of the Gateways and of their servers.
	Servers []*GatewayServer

	retries   *Retries // the mesh's default
	vhosts    *hostname.Index[*gatewayVhost]
	vhostList []*gatewayVhost // sorted by hostname.Compare
}

// gatewayVhost has the HTTP rules of one host pattern of a listener.
type gatewayVhost struct {
	pattern hostname.Pattern
	routes  *Routes
}
