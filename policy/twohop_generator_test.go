// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"

	"github.com/egressd/egressd/internal/hostname"
)

// gateway returns one of the Gateways that twoHop's rules are bound to.
func (g *generator) gateway(i int) *Gateway {
	out := egressGateway([]uint16{80, 443}[g.r.IntN(2)], ProtocolHTTP, nil, hostname.Pattern(g.one("*.example.com", "x.example.com", "*")))
	out.Ref.Name = fmt.Sprint("egress", i)
	s := &out.Servers[0]
	switch s.Ref = out.Ref; g.r.IntN(4) {
	case 0:
		s.Protocol, s.TLS = ProtocolTLS, &ServerTLS{}
	case 1:
		s.Protocol, s.TLS = ProtocolHTTPS, &ServerTLS{Mode: ServerIstioMutual}
	case 2:
		s.Protocol = ProtocolTCP
	}
	if g.r.IntN(3) == 0 {
		out.Selector = nil
	}
	return out
}

// twoHop returns a rule that leads to a gateway and one that leads on.
func (g *generator) twoHop() []*VirtualService {
	host := names(hostname.Pattern(g.one("x.example.com", "*.example.com", "*.wild.org")))
	gateway := g.one("default/egress0", "default/egress1")
	v := vs("via", []string{"mesh", gateway}, host)
	last := g.one("x.example.com", "y.example.com", egressHost, "nowhere")
	port := []uint16{80, 443, 0}[g.r.IntN(3)]
	first := atGateway("mesh", 0)
	v.HTTP = []*HTTPRule{to("", egressHost, port, first), to("", last, 443, atGateway(gateway, 80))}
	v.TLS = []*TLSRule{
		{Ref: v.Ref, Matches: []*L4Match{l4on("mesh", 443, host...)}, Route: toL4(egressHost, port)},
		{Ref: v.Ref, Matches: []*L4Match{l4on(gateway, 443, host...)}, Route: toL4(last, 80)},
	}
	v.TCP = []*TCPRule{{Ref: v.Ref, Matches: []*L4Match{l4on("mesh", 5432)}, Route: toL4(egressHost, port)}}
	return []*VirtualService{v}
}

// gatewayAuthorization returns a policy for the servers of a namespace, mostly
// for the gateways of twoHop's rules.
func (g *generator) gatewayAuthorization(i int) *AuthorizationPolicy {
	a := &AuthorizationPolicy{
		Ref:    Ref{Kind: "AuthorizationPolicy", Namespace: g.one("istio-system", "istio-system", "a"), Name: fmt.Sprint("gateway", i)},
		Action: AuthAction(g.r.IntN(3)), DryRun: g.r.IntN(5) == 0,
	}
	if g.r.IntN(2) == 0 {
		a.Selector = map[string]string{"istio": g.one("egressgateway", "egressgateway", "other")}
	}
	switch r := (&AuthRule{}); g.r.IntN(5) {
	case 0:
	case 1:
		r.From = []*AuthSource{{Namespaces: values(g.one("a", "b", "default"))}}
		a.Rules = append(a.Rules, r)
	case 2:
		r.When = []*AuthCondition{{Key: g.one("destination.ip", "source.ip"), Values: []string{"192.0.2.0/24"}}}
		a.Rules = append(a.Rules, r)
	default:
		r.To = []*AuthOperation{{Hosts: values(g.one("x.example.com", "*.example.com", "*.wild.org")), Ports: []uint16{[]uint16{80, 443}[g.r.IntN(2)]}}}
		a.Rules = append(a.Rules, r)
	}
	return a
}
