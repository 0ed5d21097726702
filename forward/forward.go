// SPDX-License-Identifier: Apache-2.0

// Package forward is the one forwarding core of the egress and the ingress
// side: it accepts connections, peeks at their first bytes under a deadline,
// routes HTTP requests by compiled rules, keeps upstream connections, applies
// timeouts, retries and faults, and splices opaque bytes.
//
// It knows no BPF and no YAML. What is allowed comes from a Decider, where
// upstreams are comes from a Dialer; egress and ingress implement both.
package forward

import (
	"context"
	"net"
	"net/netip"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Conn describes one accepted downstream connection. It is immutable once
// the connection is served.
type Conn struct {
	// Dst is the destination that the workload dialled (the listener's own
	// address on the ingress side).
	Dst netip.AddrPort
	// Src is the downstream's address.
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
	// Mode is the workload's mode. The Decider acts on it; the core only
	// reports Decision.WouldDeny.
	Mode policy.Mode
}

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

// Dialer connects to upstreams, at addresses that it resolved and checked
// itself.
type Dialer interface {
	// Dial connects to u for c. u's endpoints and names are tried in their order;
	// among the addresses of a name, c.Dst's is preferred. Errors for which
	// nothing was sent wrap dial.ErrConnect or dial.ErrResolve; a refusal by
	// address rules wraps dial.ErrAddress, one because of where an endpoint is
	// dial.ErrEndpoint, one because u asks for what is not there
	// dial.ErrUnsupported.
	Dial(ctx context.Context, c *Conn, u *policy.Upstream) (net.Conn, error)
	// Resolve returns the addresses of a name of u's that Dial would use for it.
	Resolve(ctx context.Context, c *Conn, u *policy.Upstream, name string) ([]netip.Addr, error)
}
