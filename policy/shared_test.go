// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// sameHost compares all that a host says; what AuthorizationPolicies say by its text.
func sameHost(x, y *Host) bool {
	if x.guarded || y.guarded {
		return x.guarded == y.guarded && x.sum == y.sum
	}
	return reflect.DeepEqual(x, y)
}

// TestDonatedHosts: a host that policies share says in each of them what it would say if
// that had it of its own.
func TestDonatedHosts(t *testing.T) {
	shared, once := 0, 0
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 3))
		g := generator{r: r}
		c := g.config()
		s := mustCompile(t, c)
		for step := range 4 {
			alone, err := compileUnshared(c)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[*Host]bool{}
			for _, p := range s.policies {
				own := alone.byKey(p.class.key)
				if own == nil {
					t.Fatalf("seed %d step %d: nothing is compiled for %+v", seed, step, p.class.identity)
				}
				for pattern, h := range p.names.All() {
					if seen[h] {
						shared++
					} else {
						once++
					}
					seen[h] = true
					if fresh, _ := own.names.Get(pattern); fresh == nil || !sameHost(h, fresh) {
						t.Fatalf("seed %d step %d: %s in the policy of %+v:\n%s\nand alone\n%s", seed, step, pattern, p.class.identity, dumpHost(h), dumpHost(fresh))
					}
				}
			}
			edited := g.edit(c)
			next, err := s.Update(edited)
			if err != nil {
				continue
			}
			c, s = edited, next
		}
	}
	if shared == 0 || once == 0 {
		t.Errorf("%d hosts are shared, %d are not", shared, once)
	}
	t.Logf("%d hosts are shared, %d are not", shared, once)
}

func dumpHost(h *Host) (text string) {
	if h == nil {
		return "nothing"
	}
	text = fmt.Sprintf("%+v", *h)
	for _, hp := range h.Ports {
		text += fmt.Sprintf("\n  %+v\n    %+v", *hp, *hp.Upstream)
	}
	return text
}

// TestManyNamespaces: what all namespaces see is kept once, however many of them have
// workloads on the node; what is said differently in one of them is that one's own.
func TestManyNamespaces(t *testing.T) {
	c := &Config{}
	for i := range 20 {
		h := hostname.Pattern(fmt.Sprintf("h%d.example.com", i))
		c.Services = append(c.Services, &Service{
			Ref: Ref{Kind: "ServiceEntry", Namespace: "shop", Name: fmt.Sprint("s", i)}, External: true, Hosts: []hostname.Pattern{h},
			Ports: []Port{{Number: 443, Protocol: ProtocolTLS}}, Resolution: ResolutionDNS,
		})
	}
	// The namespaces differ in one host, which each of them declares.
	for _, ns := range []string{"a", "b", "c"} {
		c.Services = append(c.Services, &Service{
			Ref: Ref{Kind: "ServiceEntry", Namespace: ns, Name: "own"}, External: true, Hosts: []hostname.Pattern{"own.example.com"},
			Ports: []Port{{Number: 443, Protocol: ProtocolTLS}}, Resolution: ResolutionDNS,
		})
		c.Workloads = append(c.Workloads, workloads(ns)...)
	}
	s := mustCompile(t, c)
	hosts, all := map[*Host]bool{}, 0
	for _, p := range s.policies {
		for _, h := range p.names.All() {
			hosts[h] = true
			all++
		}
	}
	if len(s.policies) < 3 || all < 3*21 || len(hosts) < 20+3 || len(hosts) > 20+4 {
		t.Errorf("%d policies have %d hosts, of which %d are different", len(s.policies), all, len(hosts))
	}
}
