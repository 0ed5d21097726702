// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"testing"
)

// spread is a rule with a destination that is free, one that an
// AuthorizationPolicy denies, one that the workload may not reach, and one that
// nobody declares.
func spread() *Config {
	c := guarded(authorize(AuthDeny, "http", &AuthRule{}))
	inside := kube("inside")
	inside.Ports = []Port{{Number: 80, Protocol: ProtocolHTTP}}
	c.Services = append(c.Services, with(se("free", ResolutionDNS, "free.example.com"), svcPort(80, ProtocolHTTP)), inside)
	rule := &HTTPRule{Route: []*WeightedDestination{
		{Destination: Destination{Host: "free.example.com", Port: 80}, Weight: 4},
		{Destination: Destination{Host: "http.example.com", Port: 80}, Weight: 3},
		{Destination: Destination{Host: "inside.default.svc.cluster.local", Port: 80}, Weight: 2},
		{Destination: Destination{Host: "unknown.example.com", Port: 80}, Weight: 1},
	}}
	c.VirtualServices = []*VirtualService{vs("v", mesh, names("free.example.com"), rule)}
	return c
}

// TestWeightedVerdicts: each destination of a weighted route has a verdict of its
// own, and one of them does not decide about the requests to the others.
func TestWeightedVerdicts(t *testing.T) {
	p := mustCompile(t, spread()).Policy(DefaultPolicy)
	got := map[Reason]int{}
	for draw := range uint64(10) {
		d := p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80"), Draw: draw}, get("free.example.com", "/"))
		if d.Verdict != Deny && d.To == nil {
			t.Errorf("draw %d: nothing is drawn: %+v", draw, d)
		}
		got[d.Reason]++
	}
	// That nobody declares a destination is the forwarding core's to answer.
	if got[ReasonAllowed] != 5 || got[ReasonAuthorization] != 3 || got[ReasonName] != 2 {
		t.Errorf("%v", got)
	}
}

// TestRoutes: all ways are found, with what the decision says of each.
func TestRoutes(t *testing.T) {
	p := mustCompile(t, spread()).Policy(DefaultPolicy)
	f := Flow{Dst: ap("203.0.113.1:80")}
	r, d, draw := p.Routes(f, get("free.example.com", "/"))
	if r == nil || len(r.To) != 4 || d.Verdict == Deny || draw != 0 {
		t.Fatalf("%+v %+v", r, d)
	}
	for i, want := range []Reason{"", ReasonAuthorization, ReasonName, ReasonNoDestination} {
		if b := r.To[i]; b.Reason != want || b.Allowed != (want == "") {
			t.Errorf("%s: %+v, want %q", b.To, b, want)
		}
	}
	if s := r.DeniedShare(); s < 0.6-1e-9 || s > 0.6+1e-9 {
		t.Errorf("denied: %g of all", s)
	}
	c := spread()
	c.VirtualServices[0].HTTP[0].Route = c.VirtualServices[0].HTTP[0].Route[1:]
	if r, d, _ := mustCompile(t, c).Policy(DefaultPolicy).Routes(f, get("free.example.com", "/")); d.Verdict != Deny || r.DeniedShare() < 1-1e-9 {
		t.Errorf("nothing is left: %+v, denied: %g of all", d, r.DeniedShare())
	}
}

// TestRoutesAgree: whatever the configuration, every draw leads to a way that was
// found, and is decided as that says.
func TestRoutesAgree(t *testing.T) {
	several := 0
	for seed := range uint64(60) {
		g := generator{r: rand.New(rand.NewPCG(seed, 5))}
		c := g.config()
		for range 8 {
			if edited := g.edit(c); canCompile(edited) {
				c = edited
			}
		}
		spreadOut(g.r, c)
		if !canCompile(c) {
			continue
		}
		s := mustCompile(t, c)
		for _, id := range s.Policies() {
			p := s.Policy(id)
			for _, name := range []string{"x.example.com", "q.example.com", "a.wild.org", "z.example.com"} {
				f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{name}}
				several += agrees(t, p, f, get(name, "/"))
				f.Dst = ap("[2001:db8::1]:443")
				several += agrees(t, p, f, nil)
				f.Host, f.HostFrom = name, EvidenceSNI
				several += agrees(t, p, f, nil)
			}
		}
	}
	if several == 0 {
		t.Error("no flow had several ways")
	}
}

// spreadOut gives rules more destinations.
func spreadOut(r *rand.Rand, c *Config) {
	more := func(route *[]*WeightedDestination) {
		if len(*route) == 0 {
			return
		}
		all := []*WeightedDestination{{Destination: (*route)[0].Destination, Weight: 1}}
		for _, host := range []string{"x.example.com", "q.example.com", "nothing.test"}[:1+r.IntN(3)] {
			all = append(all, &WeightedDestination{Destination: Destination{Host: host, Port: 80}, Weight: uint32(1 + r.IntN(3))})
		}
		*route = all
	}
	for _, v := range c.VirtualServices {
		for _, rule := range v.HTTP {
			more(&rule.Route)
		}
		for _, rule := range v.TLS {
			more(&rule.Route)
		}
		for _, rule := range v.TCP {
			more(&rule.Route)
		}
	}
}

// agrees returns 1 when a flow has several ways.
func agrees(t *testing.T, p *Policy, f Flow, r *Request) int {
	t.Helper()
	route, first, draw := p.Routes(f, r)
	if d := decided(p, f, r, draw); d.Verdict != first.Verdict || d.Reason != first.Reason {
		t.Fatalf("%+v: told as %+v, decided as %+v", f, first, d)
	}
	if route == nil || len(route.To) == 0 {
		return 0
	}
	reasons, ways := map[Reason]bool{}, 0
	endsOf(route, func(b *Branch) { reasons[b.Reason] = true; ways++ })
	for draw := range uint64(24) {
		d := decided(p, f, r, draw)
		if d.Verdict != Deny {
			d.Reason = ""
		}
		if !reasons[d.Reason] && ways == len(route.To) { // a gateway may answer by itself
			t.Fatalf("%+v: draw %d is decided as %q, of %v", f, draw, d.Reason, reasons)
		}
	}
	return min(ways-1, 1)
}

// decided is the decision of a flow with a draw. That nobody declares a request's
// destination is told as a denial.
func decided(p *Policy, f Flow, r *Request, draw uint64) Decision {
	f.Draw = draw
	switch {
	case r != nil:
		d := p.DecideHTTP(f, r)
		if d.Verdict != Deny && d.To != nil && d.To.Gateway == nil && d.To.Upstream == nil {
			return Decision{Reason: ReasonNoDestination}
		}
		return d.Decision
	case f.HostFrom == EvidenceSNI:
		d, _ := p.DecideTLS(f, f.Host)
		return d
	}
	return p.Candidates(f).Decision
}

// endsOf calls f for every way of a route to its end.
func endsOf(r *Route, f func(*Branch)) {
	for i := range r.To {
		if b := &r.To[i]; b.Next != nil && len(b.Next.To) > 0 {
			endsOf(b.Next, f)
		} else {
			f(b)
		}
	}
}

// TestRoutesOfGateways: the ways of a gateway's rule are those of the share that
// comes to it.
func TestRoutesOfGateways(t *testing.T) {
	c := twoHopHTTP()
	own, gateway := c.VirtualServices[0].HTTP[0], c.VirtualServices[0].HTTP[1]
	own.Route[0].Weight = 3
	own.Route = append(own.Route, &WeightedDestination{Destination: Destination{Host: "nothing.test", Port: 80}, Weight: 1})
	gateway.Route[0].Weight = 1
	gateway.Route = append(gateway.Route, &WeightedDestination{Destination: Destination{Host: "nowhere.test", Port: 80}, Weight: 2})
	p := mustCompile(t, c).Policy(DefaultPolicy)
	f := Flow{Transport: TCP, Dst: ap("192.0.2.1:80"), Names: []string{"edition.cnn.com"}}
	r, d, _ := p.Routes(f, get("edition.cnn.com", "/"))
	if r == nil || d.Verdict == Deny || len(r.To) != 2 || r.To[0].Next == nil || len(r.To[0].Next.To) != 2 {
		t.Fatalf("%+v %+v", r, d)
	}
	for _, b := range []struct {
		Branch
		allowed bool
		share   float64
	}{{r.To[0].Next.To[0], true, 0.25}, {r.To[0].Next.To[1], false, 0.5}, {r.To[1], false, 0.25}} {
		if b.Allowed != b.allowed || b.Share < b.share-1e-9 || b.Share > b.share+1e-9 {
			t.Errorf("%+v, want allowed %t, share %g", b.Branch, b.allowed, b.share)
		}
	}
}
