// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// TestUnknownNames: under ALLOW_ANY every name is asked for and nothing is
// learned for those that no rule has; what an AuthorizationPolicy denies is
// refused and never asked for, in both modes of the mesh.
func TestUnknownNames(t *testing.T) {
	deny := &policy.AuthorizationPolicy{
		Ref:    policy.Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: "deny"},
		Action: policy.AuthDeny, Rules: []*policy.AuthRule{{}},
	}
	services := append(learnedtest.Services(), learnedtest.Service("denied.test"))
	for _, s := range services {
		if slices.Contains(s.Hosts, "denied.test") {
			deny.Targets = []policy.AuthTarget{{Kind: "ServiceEntry", Name: s.Ref.Name}}
			deny.Ref.Namespace = s.Ref.Namespace
		}
	}
	zone := append(slices.Clone(internet), "denied.test. 60 A 203.0.113.70",
		"sneaky.test. 60 A 127.0.0.1", "sneaky.test. 60 A 169.254.169.254", "sneaky.test. 60 A 198.51.100.7", "sneaky.test. 60 A 10.0.0.1",
		"sneaky.test. 60 AAAA ::1", "sneaky.test. 60 AAAA 2001:4860::66")
	for _, mesh := range []policy.OutboundMode{policy.RegistryOnly, policy.AllowAny} {
		z := newZone(t, zone...)
		r := newRig(t, Config{}, z.addr).serve()
		s, err := policy.Compile(&policy.Config{Services: services, Mesh: policy.Mesh{Outbound: mesh}, Authorizations: []*policy.AuthorizationPolicy{deny}})
		if err != nil {
			t.Fatal(err)
		}
		r.pol.Store(s)
		for _, c := range []struct {
			name   string
			qtype  uint16
			any    []string // the answer under ALLOW_ANY; nil: refused
			reason policy.Reason
		}{
			{"evil.test.", dns.TypeA, []string{"evil.test. 60 IN A 203.0.113.66"}, policy.ReasonName},
			{"sneaky.test.", dns.TypeA, []string{"sneaky.test. 60 IN A 10.0.0.1"}, policy.ReasonName},
			{"sneaky.test.", dns.TypeAAAA, []string{"sneaky.test. 60 IN AAAA 2001:4860::66"}, policy.ReasonName},
			{"denied.test.", dns.TypeA, nil, policy.ReasonAuthorization},
			{"denied.test.", dns.TypeAAAA, nil, policy.ReasonAuthorization},
		} {
			m := r.ask("udp", r.udp[0], question(c.name, c.qtype))
			asked := len(z.takeAsked()) > 0
			if mesh == policy.RegistryOnly || c.any == nil {
				if m.Rcode != dns.RcodeNameError || asked {
					t.Errorf("%v %s: %v, asked upstream: %v", mesh, c.name, dns.RcodeToString[m.Rcode], asked)
				}
			} else if got := texts(m.Answer); !slices.Equal(got, c.any) || !asked {
				t.Errorf("%v %s: %v %v, asked upstream: %v", mesh, c.name, dns.RcodeToString[m.Rcode], got, asked)
			}
			if all := r.events.take(); c.any == nil && mesh == policy.AllowAny && c.qtype == dns.TypeA &&
				(len(all) != 1 || all[0].Reason != c.reason || all[0].Rule == nil || all[0].Rule.Name != "deny") {
				t.Errorf("%v %s: events %+v", mesh, c.name, all)
			}
		}
		if got := r.kernel.Addresses(); len(got) != 0 {
			t.Errorf("%v: opened %v", mesh, got)
		}
		// A name that a rule has is learned as ever.
		r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
		if got := r.kernel.Addresses(); !slices.Equal(got, []string{"203.0.113.1"}) {
			t.Errorf("%v: opened %v", mesh, got)
		}
	}
}
