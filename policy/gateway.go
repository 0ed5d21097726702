// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/authz"
)

// GatewayListener is one port of a gateway with the servers of all Gateways
// that share it: one that this node listens on, or one that the rules of
// workloads lead to, which go on as the Gateway's at the same place. It is
// immutable.
type GatewayListener struct {
	// Name is "namespace/name" of the Gateways, separated by commas.
	Name string
	Port uint16
	// Bind is the address to listen on; invalid: all addresses.
	Bind netip.Addr
	// Unix is the path of the socket that is listened on in the place of an address and
	// port, "" for none.
	Unix string
	// Protocol is that of the first server; the others have the same, or are
	// told apart from it by SNI.
	Protocol Protocol
	// Servers are in the order of the Gateways and of their servers; those
	// that cannot share the port are left out.
	Servers []*GatewayServer

	// Topology is where the gateway stands, which the first of the Gateways says.
	Topology Topology

	// plain is for connections in plain text, bySNI for those that begin with
	// a ClientHello; a listener has one of them.
	plain  *gatewayChain
	bySNI  *hostname.Index[*gatewayChain]
	chains []*gatewayChain // all of bySNI, each once, in order
	// labels are those of the gateway that the listener is of.
	labels    map[string]string
	namespace string
	// authorizer is what AuthorizationPolicies say of flows that go on as the
	// gateway, or of those that come from outside to it; nil: nothing.
	authorizer *authz.Authorizer
	// retries is the mesh's default.
	retries *Retries
}

// gatewayChain is what happens to the connections of one server, or to those
// with one SNI (Envoy's filter chain).
type gatewayChain struct {
	// server terminates TLS; nil: nobody does.
	server *GatewayServer
	// sni are what the chain is found by.
	sni []hostname.Pattern
	// vhosts are set for HTTP, route for everything else. Without either
	// there is no rule for the connection.
	vhosts    *hostname.Index[*gatewayVhost]
	vhostList []*gatewayVhost // sorted by hostname.Compare
	route     *l4Route
}

// gatewayVhost has the HTTP rules of one host pattern of a listener.
type gatewayVhost struct {
	pattern hostname.Pattern
	routes  *Routes
}

// Place says where is listened, for people: "port 80", or "unix:/run/web.sock".
func (l *GatewayListener) Place() string { return placeOf(l.Unix, l.Port) }

func placeOf(socket string, port uint16) string {
	if socket != "" {
		return "unix:" + socket
	}
	return fmt.Sprintf("port %d", port)
}

// IsTLS says whether connections to the listener begin with a ClientHello.
func (l *GatewayListener) IsTLS() bool { return l.Protocol.IsTLS() }

// Terminates lists the servers whose TLS ends at the listener.
func (l *GatewayListener) Terminates() []*GatewayServer {
	var out []*GatewayServer
	for _, s := range l.Servers {
		if s.Terminates() {
			out = append(out, s)
		}
	}
	return out
}

// chain returns what happens to a connection with an SNI, "" for none: the
// exact name, else the longest wildcard, else the server for all; nil when
// there is none.
func (l *GatewayListener) chain(sni string) *gatewayChain {
	switch {
	case l.plain != nil:
		return l.plain
	case l.bySNI == nil:
		return nil
	case sni == "":
		c, _ := l.bySNI.Get("*")
		return c
	}
	c, _ := l.bySNI.Lookup(sni)
	return c
}

// DecideHTTP decides one request that arrived at the listener in plain text:
// the virtual host is the one with exactly the request's host, else the one
// with the longest wildcard, else "*". If it has no rule that matches, or
// there is none at all, the answer is ReasonNoRoute (404).
func (l *GatewayListener) DecideHTTP(r *Request) HTTPDecision {
	if l.plain == nil {
		return HTTPDecision{Decision: deny(ReasonNotTLS, nil)}
	}
	return l.admit(r, l.plain).arrived(r, l.retries)
}

// DecideHTTPS decides one request within TLS that a server terminates; sni is
// that of the connection, and chooses the server. A request for a host of another
// server is not for this one (ReasonMisdirected, RFC 9110 section 15.5.20): what the
// other asks of its clients was not asked of this one.
func (l *GatewayListener) DecideHTTPS(sni string, r *Request) HTTPDecision {
	c := l.chain(sni)
	switch {
	case c == nil || c.server == nil:
		return HTTPDecision{Decision: deny(ReasonName, nil)}
	case r.Host != "" && l.chain(r.Host) != c:
		return HTTPDecision{Decision: deny(ReasonMisdirected, &c.server.Ref)}
	}
	return l.admit(r, c).arrived(r, l.retries)
}

func (c *gatewayChain) decideHTTP(r *Request, t *Trace) HTTPDecision {
	if c.vhosts == nil {
		return HTTPDecision{Decision: deny(ReasonGateway, nil)}
	}
	if r.Host == "" {
		return HTTPDecision{Decision: deny(ReasonNoName, nil)}
	}
	v, ok := c.vhosts.Lookup(r.Host)
	if !ok {
		return HTTPDecision{Decision: deny(ReasonNoRoute, nil)}
	}
	return v.routes.decide(r, nil, nil, t)
}

// arrived is d for a request of a visitor: with the retries of the mesh, and
// the mirrors of its rule.
func (d HTTPDecision) arrived(r *Request, by *Retries) HTTPDecision {
	d.Retries = by
	if d.Action != nil {
		d.Mirrors = d.mirrored(hops{}, nil, nil, r)
	}
	return d
}

// GatewayTLS is what a listener does with a ClientHello.
type GatewayTLS struct {
	Decision
	// Server terminates the TLS; what is within is for DecideHTTPS, or goes
	// to Upstream when the server does not read requests.
	Server *GatewayServer
	// Upstream is where the bytes go when nobody reads them.
	Upstream *Upstream
}

// DecideTLS decides a connection of a visitor, nil when nothing is known of it, whose
// ClientHello carries sni, normalized, "" when absent. One that no server is for is
// denied with ReasonName. draw chooses among weighted destinations.
func (l *GatewayListener) DecideTLS(v *Visitor, sni string, draw uint64) GatewayTLS {
	if l.plain != nil {
		return GatewayTLS{Decision: deny(ReasonNotTLS, nil)}
	}
	c := l.chain(sni)
	if c == nil {
		return GatewayTLS{Decision: deny(ReasonName, nil)}
	}
	out := GatewayTLS{Server: c.server}
	if c.vhosts != nil {
		out.Decision = Decision{Verdict: Proxy, Reason: ReasonAllowed, Rule: &c.server.Ref}
		return out
	}
	out.Decision, out.Upstream = l.admitConn(v, sni, c.route, draw)
	return out
}

// DecideTCP decides a connection of a visitor, nil when nothing is known of it, to a
// listener that reads nothing of it.
func (l *GatewayListener) DecideTCP(v *Visitor, draw uint64) (Decision, *Upstream) {
	if l.plain == nil || l.plain.vhosts != nil {
		return deny(ReasonNotTLS, nil), nil
	}
	return l.admitConn(v, "", l.plain.route, draw)
}

// decide is what a gateway's rule says; a nil one says nothing.
func (r *l4Route) decide(draw uint64) (Decision, *Upstream) {
	if r == nil {
		return deny(ReasonNoRoute, nil), nil
	}
	to := pick(r.destinations, r.total, draw)
	switch {
	case to == nil || to.Upstream == nil:
		return deny(ReasonNoRoute, r.ref), nil
	case to.Denied:
		return deny(ReasonName, r.ref), nil
	}
	return Decision{Verdict: Proxy, Reason: ReasonAllowed, Rule: r.ref}.supported(to.Upstream)
}
