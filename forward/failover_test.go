// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// regional is the upstream of a service with three endpoints, one of them of IPv6, for
// a workload with version=v1: the second has all labels of the rule, the third the
// first of them, the first none.
func (r *rig) regional(t *testing.T, outlier *policy.OutlierDetection, serve func(i int) http.HandlerFunc) *policy.Upstream {
	t.Helper()
	at := r.servers(nil, serve).Endpoints
	s := &policy.Service{
		Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: "a"}, External: true, Resolution: policy.ResolutionStatic,
		Hosts: []hostname.Pattern{"a.example"}, Ports: []policy.Port{{Number: 80, Name: "http", Protocol: policy.ProtocolHTTP}},
	}
	for i, labels := range []map[string]string{{"version": "v2"}, {"version": "v1", "tier": "gold"}, {"version": "v1", "tier": "iron"}} {
		s.Endpoints = append(s.Endpoints, policy.Endpoint{Addr: at[i].Addr.Addr(), Ports: map[string]uint16{"http": at[i].Addr.Port()}, Labels: labels})
	}
	snapshot, err := policy.Compile(&policy.Config{
		AllowedEndpoints: []policy.AllowedEndpoint{{Prefix: netip.MustParsePrefix("127.0.0.0/8")}, {Prefix: netip.MustParsePrefix("::1/128")}},
		Services:         []*policy.Service{s},
		DestinationRules: []*policy.DestinationRule{{
			Ref: policy.Ref{Kind: "DestinationRule", Namespace: "default", Name: "a"}, Host: "a.example",
			Traffic: &policy.TrafficPolicy{
				Outlier:      outlier,
				LoadBalancer: &policy.LoadBalancer{Simple: policy.RoundRobin, Locality: &policy.Locality{FailoverPriority: []string{"version", "tier=gold"}}},
			},
		}},
		Workloads: []*policy.Workload{{
			Ref:      policy.Ref{Kind: "Workload", Namespace: "default", Name: "w"},
			Identity: policy.Identity{Namespace: "default", Labels: map[string]string{"version": "v1"}}, Cgroups: []string{"w"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	u := snapshot.Policy(snapshot.Workloads()[0].Policy).Lookup("a.example").Ports[0].Upstream
	r.serves(u)
	return u
}

// TestFailoverPriority: the endpoint that has most in common with the workload is used,
// and when it fails the next.
func TestFailoverPriority(t *testing.T) {
	r := newRig(t, HTTP, chance)
	var mu sync.Mutex
	down := map[int]bool{}
	r.regional(t, &policy.OutlierDetection{Consecutive5xx: new(uint32(1)), MaxEjectionPercent: 100}, func(i int) http.HandlerFunc {
		return func(w http.ResponseWriter, req *http.Request) {
			mu.Lock()
			bad := down[i]
			mu.Unlock()
			if bad {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			says(i)(w, req)
		}
	})
	c := r.client(false)
	for _, want := range []string{"1", "2", "0"} {
		for range 8 {
			if _, body := get(t, c, "http://a.example/"); body != want {
				t.Fatalf("the request went to endpoint %s, want %s", body, want)
			}
		}
		mu.Lock()
		down[int(want[0]-'0')] = true
		mu.Unlock()
		if resp, _ := get(t, c, "http://a.example/"); resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
}

// TestRetryRemote: after every second attempt the next ones go to other priorities than
// those before, and when there is none left it begins again.
func TestRetryRemote(t *testing.T) {
	for _, remote := range []bool{false, true} {
		r := newRig(t, HTTP, chance)
		var mu sync.Mutex
		var got []int
		u := r.regional(t, &policy.OutlierDetection{Consecutive5xx: new(uint32(0))}, func(i int) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				mu.Lock()
				got = append(got, i)
				mu.Unlock()
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		a := routeTo(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 6, On: []string{"5xx"}, Backoff: time.Millisecond, AnyHost: true, Remote: remote}}, "a.example")
		a.Destinations[0].Upstream = u
		r.rule(a)
		get(t, r.client(false), "http://a.example/")
		want := []int{1, 1, 1, 1, 1, 1, 1}
		if remote {
			want = []int{1, 1, 2, 2, 0, 0, 1}
		}
		if !slices.Equal(got, want) {
			t.Errorf("remote %t: the attempts went to %v, want %v", remote, got, want)
		}
	}
}
