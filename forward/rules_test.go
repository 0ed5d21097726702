// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// origins are services whose hosts the rig has origins for.
func services(hosts ...string) (out []*policy.Service) {
	for _, h := range hosts {
		out = append(out, &policy.Service{
			Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: h}, External: true, Hosts: []hostname.Pattern{hostname.Pattern(h)},
			Ports: []policy.Port{{Number: 80, Protocol: policy.ProtocolHTTP}}, Resolution: policy.ResolutionDNS,
		})
	}
	return out
}

// compiled has requests decided by a compiled policy: services, and a rule for a.example.
func (r *rig) compiled(all []*policy.Service, rules ...*policy.HTTPRule) {
	r.t.Helper()
	c := &policy.Config{Services: all, VirtualServices: []*policy.VirtualService{{
		Ref: policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "a"}, Hosts: []hostname.Pattern{"a.example"},
		Gateways: []string{"mesh"}, HTTP: rules,
	}}}
	r.apply(c)
}

func (r *rig) apply(c *policy.Config) {
	r.t.Helper()
	s, err := policy.Compile(c)
	if err != nil {
		r.t.Fatal(err)
	}
	p := s.Policy(policy.DefaultPolicy)
	r.change(func() {
		r.http = func(req *policy.Request) policy.HTTPDecision {
			return p.DecideHTTP(policy.Flow{Dst: netip.MustParseAddrPort("192.0.2.1:80"), Names: []string{req.Host}}, req)
		}
	})
}

func to(host string) []*policy.WeightedDestination {
	return []*policy.WeightedDestination{{Destination: policy.Destination{Host: host, Port: 80}, Weight: 1}}
}

// only is the only event of a kind.
func (s *events) only(t testing.TB, kind flow.Moment) flow.Event {
	t.Helper()
	e := s.wait(t, kind, 1)
	if n := len(s.all(kind)); n != 1 {
		t.Errorf("%d %s events, want one: %+v", n, kind, s.all(kind))
	}
	return e
}
