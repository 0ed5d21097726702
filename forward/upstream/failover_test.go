// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/egressd/egressd/policy"
)

// TestFailoverLabelsOfPlaces: labels that say where something is have the node's place as
// their value, and an endpoint's locality; failover counts among equals.
func TestFailoverLabelsOfPlaces(t *testing.T) {
	u := named("a.example")
	for i, l := range []string{"eu/west/1", "eu/west/2", "eu/north/1", "us/east/1", "ap/south/1", ""} {
		u.Endpoints = append(u.Endpoints, policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Weight: 1, Locality: l})
	}
	region, zone := policy.FailoverLabel{Name: topology[0]}, policy.FailoverLabel{Name: topology[1]}
	for _, tt := range []struct {
		name, own string
		labels    []policy.FailoverLabel
		failover  []policy.Failover
		want      []uint8
	}{
		{"the node's place", "eu/west/1", []policy.FailoverLabel{region, zone}, nil, []uint8{0, 0, 1, 2, 2, 2}},
		{"the order counts", "eu/west/1", []policy.FailoverLabel{zone, region}, nil, []uint8{0, 0, 2, 2, 2, 2}},
		{"a part of it is known", "us", []policy.FailoverLabel{region}, nil, []uint8{1, 1, 1, 0, 1, 1}},
		{"nothing is known of the node", "", []policy.FailoverLabel{region}, nil, []uint8{1, 1, 1, 1, 1, 0}},
		{"the rule says the value", "eu/west/1", []policy.FailoverLabel{{Name: topology[0], Value: "ap", Fixed: true}}, nil, []uint8{1, 1, 1, 1, 0, 1}},
		{"failover among equals", "eu/west/1", []policy.FailoverLabel{{Name: "tier", Value: "gold", Fixed: true}}, []policy.Failover{{From: "eu", To: "us"}}, []uint8{5, 6, 7, 8, 9, 9}},
	} {
		own := *u
		own.Failover = tt.labels
		own.Traffic = &policy.TrafficPolicy{Outlier: &policy.OutlierDetection{}, LoadBalancer: &policy.LoadBalancer{Locality: &policy.Locality{Failover: tt.failover}}}
		list, _ := (&balancers{locality: tt.own}).endpoints(&own)
		var got []uint8
		for _, e := range list {
			got = append(got, e.Priority)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: priorities %v, want %v", tt.name, got, tt.want)
		}
	}
}
