// SPDX-License-Identifier: Apache-2.0

// Package downstream is what the forwarding core knows of an accepted connection,
// and whom it asks about it.
package downstream

import (
	"net/netip"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Conn describes one accepted downstream connection. It is immutable once
// the connection is served.
type Conn struct {
	// Dst is the destination that the workload dialled (the listener's own
	// address on the ingress side).
	Dst netip.AddrPort
	// Socket is the path of the unix socket of a gateway that the connection came by, for
	// which there is no Dst; "": it came by an address.
	Socket string
	// Src is the downstream's address; invalid: it has none, as behind a unix socket.
	Src      netip.AddrPort
	Layer    flow.Layer
	Workload string
	// WorkloadID is the workload's number, for the Decider.
	WorkloadID uint32
	Process    flow.Process
	// Policy is the workload's policy id at accept.
	Policy policy.PolicyID
	// TrustedProxies is how many proxies before a gateway say in X-Forwarded-For where
	// a visitor is (Istio's gatewayTopology.numTrustedProxies).
	TrustedProxies int
	// Proxied: the connection begins with a PROXY protocol header, which says where the
	// visitor is. Src is that of the header once it is read.
	Proxied bool
	// Draw is a uniformly distributed number, by which the rules for TLS and TCP choose
	// among weighted destinations. The core draws it once: who asks again about a
	// connection that is open asks about where it goes.
	Draw uint64
	// Mode is the workload's mode. The Decider acts on it; the core only
	// reports Decision.WouldDeny.
	Mode policy.Mode
}

// Owner is who has what is taken for the connection: its workload, or the gateway.
func (c *Conn) Owner() limits.Owner { return limits.Owner{Layer: c.Layer, Workload: c.WorkloadID} }

// Handling is how the core is to treat a connection.
type Handling uint8

// The ways to treat a connection.
const (
	// Refuse: close at once.
	Refuse Handling = iota
	// Opaque: splice to Upstream without reading.
	Opaque
	// TLS: peek the ClientHello, then ask Decider.TLS.
	TLS
	// HTTP: serve requests, asking Decider.HTTP for each.
	HTTP
	// Sniff: peek; TLS, HTTP or (when the Decider's Opening has an Upstream)
	// opaque, also when the client is silent for the sniff time.
	Sniff
)

// Admission is the Decider's first answer for a connection, before any byte
// was read.
type Admission struct {
	Protocol Handling
	policy.Decision
	// Upstream is set for Opaque, and for Sniff where opaque is allowed.
	Upstream *policy.Upstream
}

// Decider decides. Every call reads the newest snapshot. Implementations
// must be safe for concurrent use.
type Decider interface {
	// Open decides how a fresh connection is treated.
	Open(c *Conn) Admission
	// TLS decides about a ClientHello; sni is normalized, "" when absent.
	TLS(c *Conn, sni string) (policy.Decision, *policy.Upstream)
	// HTTP decides about one request.
	HTTP(c *Conn, r *policy.Request) policy.HTTPDecision
}
