// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

// endpoints are endpoints with these weights.
func endpoints(weights ...uint32) policy.Endpoints {
	var list []policy.UpstreamEndpoint
	for i, w := range weights {
		list = append(list, policy.UpstreamEndpoint{Addr: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:80", i+1)), Weight: w})
	}
	return policy.NewEndpoints(list)
}

// TestScale: small weights stay, greater ones become as many slots as the kernel tells
// apart, in the nearest proportion, and nobody is left without one.
func TestScale(t *testing.T) {
	for _, c := range []struct{ weights, want []uint32 }{
		{[]uint32{1}, []uint32{1}},
		{[]uint32{91, 37}, []uint32{91, 37}},   // 128 in all
		{[]uint32{101, 100}, []uint32{1, 1}},   // 64 each, in lowest terms
		{[]uint32{3001, 1000}, []uint32{3, 1}}, // 96 and 32
		{[]uint32{1 << 31, 1}, []uint32{127, 1}},
	} {
		var got []uint32
		for _, o := range scale(endpoints(c.weights...)).List() {
			got = append(got, o.Weight)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.weights, got, c.want)
		}
	}
}

// TestEntries: a set has its slots one by one, and each endpoint as a member.
func TestEntries(t *testing.T) {
	s := endpointSet{id: 9, list: endpoints(2, 1)}
	s.slots = slotsOf(s.list)
	all := s.entries()
	by := map[Endpoint]int{}
	for slot := range s.slots {
		v, ok := all[EndpointKey{Set: 9, Slot: slot}]
		if !ok {
			t.Errorf("slot %d is missing", slot)
		}
		by[v]++
	}
	for i, o := range s.list.List() {
		v := Endpoint{Addr: o.Addr.Addr().As16(), Port: NetworkOrder(80)}
		if by[v] != int(o.Weight) {
			t.Errorf("endpoint %d has %d slots", i, by[v])
		}
		if all[EndpointKey{Set: 9, Slot: memberSlot, Port: v.Port, Addr: v.Addr}] != v {
			t.Errorf("endpoint %d is no member", i)
		}
	}
	if s.slots != 3 || len(all) != 5 {
		t.Errorf("%d slots, %d entries", s.slots, len(all))
	}
}

// TestServerNameKey: a name that is longer than a ClientHello's can be has no key.
func TestServerNameKey(t *testing.T) {
	k := KnownKey{Policy: 3, Addr: netip.MustParseAddr("2001:db8::1").As16()}
	long := strings.Repeat("a", len(NameKey{}.Name))
	for name, want := range map[string]error{"a.example": nil, long[1:]: nil, long: errNameLength} {
		key, err := serverName{port: 443, name: name}.key(k)
		if !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", len(name), err)
		}
		if err == nil && (key.Policy != 3 || key.Port != 443 || key.Addr != k.Addr || int(key.Len) != len(name) || string(key.Name[:key.Len]) != name) {
			t.Errorf("%d bytes: %+v", len(name), key)
		}
	}
}
