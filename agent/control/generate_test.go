// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// What policies, names and probes are about: little, so that much overlaps.
var (
	someHosts    = []string{"x.example.com", "y.example.com", "*.example.com", "z.test"}
	someNames    = []string{"x.example.com", "y.example.com", "z.test"}
	somePrefixes = []string{"198.51.100.1/32", "198.51.100.0/28", "198.51.100.0/24", "2001:4860::1/128", "2001:4860::/64"}
	someAddrs    = []string{"198.51.100.1", "198.51.100.9", "198.51.100.77", "2001:4860::1", "2001:4860::5"}
	somePorts    = []uint16{443, 5432}
)

type generator struct {
	*rand.Rand
	n int
}

func one[T any](g *generator, of []T) T { return of[g.IntN(len(of))] }

// config is a whole policy.
func (g *generator) config() *policy.Config {
	c := &policy.Config{Workloads: g.workloads()}
	for range 1 + g.IntN(5) {
		c.Services = append(c.Services, g.service())
	}
	g.rest(c)
	return c
}

func (g *generator) rest(c *policy.Config) {
	c.Mesh.Outbound = policy.OutboundMode(g.IntN(2))
	c.Authorizations = nil
	for _, s := range c.Services {
		if g.IntN(4) == 0 {
			a := &policy.AuthorizationPolicy{
				Ref:    policy.Ref{Kind: "AuthorizationPolicy", Namespace: s.Ref.Namespace, Name: s.Ref.Name},
				Action: policy.AuthDeny, Targets: []policy.AuthTarget{{Kind: "ServiceEntry", Name: s.Ref.Name}},
				Rules: []*policy.AuthRule{{}},
			}
			c.Authorizations = append(c.Authorizations, a)
		}
	}
}

func (g *generator) workloads() (out []*policy.Workload) {
	for i := range 3 {
		if g.IntN(4) > 0 {
			out = append(out, &policy.Workload{
				Ref:      policy.Ref{Kind: "Workload", Namespace: "w", Name: fmt.Sprint(i)},
				Identity: policy.Identity{Name: fmt.Sprint(i), Namespace: one(g, []string{"a", "b", "c"})}, Cgroups: []string{fmt.Sprint(i)},
			})
		}
	}
	return out
}

func (g *generator) service() *policy.Service {
	g.n++
	ns := one(g, []string{"a", "b", "default"})
	s := &policy.Service{External: true, Ref: policy.Ref{Kind: "ServiceEntry", Namespace: ns, Name: fmt.Sprint("s", g.n)}}
	s.Hosts = []hostname.Pattern{hostname.Pattern(one(g, someHosts))}
	s.Resolution = one(g, []policy.Resolution{policy.ResolutionNone, policy.ResolutionStatic, policy.ResolutionDNS})
	if s.Hosts[0].IsWildcard() {
		s.Resolution = policy.ResolutionNone
	}
	for i, n := range somePorts {
		if i == 0 || g.IntN(2) == 0 {
			s.Ports = append(s.Ports, policy.Port{Number: n, Name: fmt.Sprint("p", i), Protocol: one(g, []policy.Protocol{policy.ProtocolTCP, policy.ProtocolTLS, policy.ProtocolTLS, policy.ProtocolUDP})})
		}
	}
	if s.Resolution != policy.ResolutionDNS {
		for range g.IntN(3) {
			s.Addresses = append(s.Addresses, netip.MustParsePrefix(one(g, somePrefixes)))
		}
	}
	if s.Resolution == policy.ResolutionStatic {
		s.Endpoints = []policy.Endpoint{{Addr: netip.MustParseAddr(one(g, someAddrs))}}
	}
	if g.IntN(3) == 0 {
		s.Export = policy.Visibility{Limited: true, Namespaces: []string{ns}}
	}
	return s
}

// edit changes a part.
func (g *generator) edit(c *policy.Config) *policy.Config {
	next := *c
	next.Services = slices.Clone(c.Services)
	at := func() int { return g.IntN(len(next.Services)) }
	switch g.IntN(6) {
	case 0:
		next.Services = append(next.Services, g.service())
	case 1:
		if len(next.Services) > 1 {
			i := at()
			next.Services = slices.Delete(next.Services, i, i+1)
		}
	case 2:
		next.Services[at()] = g.service()
	case 3:
		next.Workloads = g.workloads()
	case 4:
		g.rest(&next)
	case 5:
		return g.config()
	}
	return &next
}

// pair is a policy and one that follows it; ok is false where one of them is
// refused.
func (g *generator) pair() (old, next *policy.Snapshot, ok bool) {
	c := g.config()
	old, err := policy.Compile(c)
	if err != nil {
		return nil, nil, false
	}
	for range 1 + g.IntN(3) {
		c = g.edit(c)
	}
	next, err = old.Update(c)
	return old, next, err == nil
}

// probes are all flows that there can be.
func probes() (out []probe) {
	for _, w := range workloadNames {
		for _, a := range append([]string{"203.0.113.9"}, someAddrs...) {
			for _, port := range somePorts {
				dst := netip.AddrPortFrom(netip.MustParseAddr(a), port)
				out = append(out, probe{w, dst, policy.UDP, ""}, probe{w, dst, policy.TCP, ""})
				for _, name := range someNames {
					out = append(out, probe{w, dst, policy.TCP, name})
				}
			}
		}
	}
	return out
}

// learn learns what policies allow.
func (n *node) learn(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 7))
	for _, id := range n.Snapshot().Policies() {
		for _, name := range someNames {
			for _, a := range someAddrs {
				if r.IntN(3) > 0 {
					continue
				}
				// A name that is not allowed, and what is broken on purpose.
				_ = n.names.Learn(id, "w", name, []learned.Record{{Addr: netip.MustParseAddr(a), TTL: time.Hour}})
			}
		}
	}
	n.remember()
}

// begun is a node on which a policy is in force.
func begun(t *testing.T, s *policy.Snapshot, seed uint64) *node {
	t.Helper()
	n := newNode(t, newKernel(), s)
	if err := n.pipe.Apply(s); err != nil {
		t.Fatal(err)
	}
	n.learn(seed)
	n.writes = 0
	return n
}
