// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/hostname"
)

// labelled is a STATIC service with endpoints that have labels, and a DestinationRule
// with labels of failoverPriority.
func labelled(traffic *TrafficPolicy, priority ...string) *Config {
	if traffic.LoadBalancer != nil {
		traffic.LoadBalancer.Locality.FailoverPriority = priority
	}
	endpoint := func(addr string, labels map[string]string) Endpoint {
		return Endpoint{Addr: netip.MustParseAddr(addr), Labels: labels}
	}
	return &Config{
		Services: []*Service{{
			Ref: Ref{Kind: "ServiceEntry", Namespace: "default", Name: "a"}, External: true, Resolution: ResolutionStatic,
			Hosts: []hostname.Pattern{"a.example"}, Ports: []Port{{Number: 80, Name: "http", Protocol: ProtocolHTTP}},
			Endpoints: []Endpoint{endpoint("192.0.2.1", map[string]string{"version": "v1"}), endpoint("2001:db8::1", map[string]string{"version": "v2"})},
		}},
		DestinationRules: []*DestinationRule{{Ref: Ref{Kind: "DestinationRule", Namespace: "default", Name: "a"}, Host: "a.example", Traffic: traffic}},
		Workloads: []*Workload{
			{Ref: Ref{Kind: "Workload", Namespace: "default", Name: "one"}, Identity: Identity{Namespace: "default", Labels: map[string]string{"version": "v1", "pod": "1"}}, Cgroups: []string{"one"}},
			{Ref: Ref{Kind: "Workload", Namespace: "default", Name: "other"}, Identity: Identity{Namespace: "default", Labels: map[string]string{"version": "v2", "pod": "2"}}, Cgroups: []string{"other"}},
			{Ref: Ref{Kind: "Workload", Namespace: "default", Name: "same"}, Identity: Identity{Namespace: "default", Labels: map[string]string{"version": "v1", "pod": "3"}}, Cgroups: []string{"same"}},
		},
	}
}

// TestFailoverLabels: endpoints are compared with the labels of the workload, or with
// what the rule says.
func TestFailoverLabels(t *testing.T) {
	with := func() *TrafficPolicy {
		return &TrafficPolicy{LoadBalancer: &LoadBalancer{Simple: LeastRequest, Locality: &Locality{}}, Outlier: &OutlierDetection{}}
	}
	for _, c := range []struct {
		name     string
		traffic  *TrafficPolicy
		priority []string
		want     [3]string
	}{
		{"the workload's value", with(), []string{"version"}, [3]string{"[{version v1 false}]", "[{version v2 false}]", "[{version v1 false}]"}},
		{"a label that it has not", with(), []string{"zone"}, [3]string{"[{zone  false}]", "[{zone  false}]", "[{zone  false}]"}},
		{"a value", with(), []string{"version=v9", "zone"}, [3]string{"[{version v9 true} {zone  false}]", "[{version v9 true} {zone  false}]", "[{version v9 true} {zone  false}]"}},
		{"no outlier detection", &TrafficPolicy{LoadBalancer: &LoadBalancer{Locality: &Locality{}}}, []string{"version"}, [3]string{"[]", "[]", "[]"}},
		{"disabled", &TrafficPolicy{LoadBalancer: &LoadBalancer{Locality: &Locality{Disabled: true}}, Outlier: &OutlierDetection{}}, []string{"version"}, [3]string{"[]", "[]", "[]"}},
	} {
		s := mustCompile(t, labelled(c.traffic, c.priority...))
		for i, w := range s.Workloads() {
			u := s.Policy(w.Policy).Lookup("a.example").Ports[0].Upstream
			if got := fmt.Sprint(u.Failover); got != c.want[i] {
				t.Errorf("%s: workload %d compares with %s, want %s", c.name, i, got, c.want[i])
			}
			if got := u.LabelsAt(1)["version"]; got != "v2" {
				t.Errorf("%s: the second endpoint has version %q", c.name, got)
			}
		}
		of := s.Workloads()
		if of[0].Policy != of[2].Policy {
			t.Errorf("%s: workloads that differ by a label that nobody asks for have two policies", c.name)
		}
	}
}

// TestFailoverLabelsChange: what an update makes is what a compilation makes.
func TestFailoverLabelsChange(t *testing.T) {
	with := func() *TrafficPolicy {
		return &TrafficPolicy{LoadBalancer: &LoadBalancer{Locality: &Locality{}}, Outlier: &OutlierDetection{}}
	}
	s := mustCompile(t, labelled(with()))
	for _, priority := range [][]string{{"version"}, {"version=v2"}, {"version", "pod"}, nil, {"pod"}} {
		fresh := mustCompile(t, labelled(with(), priority...))
		next, err := s.Update(labelled(with(), priority...))
		if err != nil {
			t.Fatal(err)
		}
		if !next.Same(fresh) { // but for the numbers of policies
			t.Errorf("%v: updated\n%s\ncompiled\n%s", priority, next.Text(), fresh.Text())
		}
		if next.Hash() == s.Hash() {
			t.Errorf("%v: the change has not changed the hash", priority)
		}
		s = next
	}
}
