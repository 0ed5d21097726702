// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"github.com/egressd/egressd/policy/internal/authz"
)

// Trace is what a decision met on its way, in order, for people who ask why:
// Flow.Trace asks for it. The functions that decide fill it and never look at
// it; nil takes nothing, and costs nothing.
type Trace struct{ met []any } // of the types below

// metPort is a port that the flow may be allowed by, and the name that it was
// found by. The facts are what its authorizer was asked about; kernel says that
// only the kernel's knowledge counted.
type metPort struct {
	port   *HostPort
	facts  authz.Facts
	kernel bool
}

// metAuthorizer is the authorizer of another port, to which a rule leads.
type metAuthorizer struct {
	port       *HostPort
	authorizer *authz.Authorizer
	facts      authz.Facts
}

// metGateway is a gateway that the flow goes on as.
type metGateway struct {
	gateway *GatewayListener
	facts   authz.Facts
}

// metRules are HTTP rules of which one matched; nil: none did.
type metRules struct {
	rules *Routes
	r     *Request
	won   *HTTPAction
}

// metL4 are rules for TLS or TCP; one has to match when complete says so.
type metL4 struct {
	routes   []l4Route
	won      *l4Route
	complete bool
	tls      bool
}

// metDraw is a rule's choice among its destinations.
type metDraw struct {
	rule  *Ref
	all   []RouteDestination
	total uint32
	to    *RouteDestination
}

// metEntry is what became of a flow at the gateway that was drawn: the rule of
// a connection, or the reason why there is none.
type metEntry struct {
	route  *l4Route
	reason Reason
}

// metEnd is where the flow would be dialled.
type metEnd struct{ upstream *Upstream }

// port notes a port; kernel facts are made only when somebody wants them.
func (t *Trace) port(hp *HostPort, facts *authz.Facts) {
	if t != nil {
		t.met = append(t.met, metPort{hp, *facts, false})
	}
}

func (t *Trace) kernelPort(hp *HostPort, name string, a netip.Addr) {
	if t == nil {
		return
	}
	var dst netip.Prefix
	if a = a.Unmap().WithZone(""); a.IsValid() {
		dst = netip.PrefixFrom(a, a.BitLen())
	}
	t.met = append(t.met, metPort{hp, hp.kernelFacts(name, dst), true})
}

func (t *Trace) authorizer(g *destinationAuthorizer, facts *authz.Facts) {
	if t != nil {
		t.met = append(t.met, metAuthorizer{g.port, g.authorizer, *facts})
	}
}

func (t *Trace) gateway(l *GatewayListener, facts *authz.Facts) {
	if t != nil {
		t.met = append(t.met, metGateway{l, *facts})
	}
}

func (t *Trace) rules(rs *Routes, r *Request, won *HTTPAction) {
	if t != nil {
		t.met = append(t.met, metRules{rs, r, won})
	}
}

func (t *Trace) l4(routes []l4Route, won *l4Route, complete, tls bool) {
	if t != nil {
		t.met = append(t.met, metL4{routes, won, complete, tls})
	}
}

func (t *Trace) draw(rule *Ref, all []RouteDestination, total uint32, to *RouteDestination) {
	if t != nil {
		t.met = append(t.met, metDraw{rule, all, total, to})
	}
}

func (t *Trace) entry(route *l4Route, reason Reason) {
	if t != nil {
		t.met = append(t.met, metEntry{route, reason})
	}
}

func (t *Trace) end(u *Upstream) {
	if t != nil && u != nil {
		t.met = append(t.met, metEnd{u})
	}
}

// each calls f with what was met and is a T, in order.
func each[T any](t *Trace, f func(T)) {
	for _, m := range t.met {
		if x, ok := m.(T); ok {
			f(x)
		}
	}
}
