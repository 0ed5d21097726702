// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

// one compiles a single ServiceEntry.
func one(t *testing.T, s *Service) *Policy {
	t.Helper()
	return defaultOf(t, []*Service{s})
}

// svcEndpointPorts adds the ports of the last endpoint, by name.
func svcEndpointPorts(ports map[string]uint16, weight uint32) func(*Service) {
	return func(s *Service) {
		e := &s.Endpoints[len(s.Endpoints)-1]
		e.Ports, e.Weight = ports, weight
	}
}

// TestWays: what the kernel does with flows to an address of a service, and
// where they go.
func TestWays(t *testing.T) {
	both := func(s *Service) *Service {
		return with(s, svcEndpoint("192.0.2.1"), svcEndpoint("192.0.2.2"), svcEndpoint("2001:db8::1"))
	}
	vip := func(p Protocol) *Service {
		return with(se("s", ResolutionStatic, "a.b"), svcAddresses("240.0.0.1/32", "fd00::1/128"), svcPort(70, p))
	}
	for _, c := range []struct {
		name  string
		s     *Service
		tr    Transport
		dst   string
		names []string
		want  string
	}{
		{"vip", both(vip(ProtocolTCP)), TCP, "240.0.0.1:70", nil, "direct to 192.0.2.1:70 192.0.2.2:70"},
		{"vip v6", both(vip(ProtocolTCP)), TCP, "[fd00::1]:70", nil, "direct to [2001:db8::1]:70"},
		{"vip, mapped", both(vip(ProtocolTCP)), TCP, "[::ffff:240.0.0.1]:70", nil, "direct to 192.0.2.1:70 192.0.2.2:70"},
		{"vip, udp", both(vip(ProtocolUDP)), UDP, "[fd00::1]:70", nil, "direct to [2001:db8::1]:70"},
		{"vip, tls", both(vip(ProtocolTLS)), TCP, "240.0.0.1:70", nil, "inspect to 192.0.2.1:70 192.0.2.2:70"},
		{"vip, http", both(vip(ProtocolHTTP)), TCP, "240.0.0.1:70", nil, "proxy"},
		{"vip, by its first bytes", both(vip(ProtocolUnset)), TCP, "240.0.0.1:70", nil, "proxy"},
		{"an endpoint itself", both(vip(ProtocolTCP)), TCP, "192.0.2.2:70", nil, "direct"},
		{"no endpoint of the family", with(vip(ProtocolTCP), svcEndpoint("192.0.2.1")), TCP, "[fd00::1]:70", nil, "proxy"},
		{"no endpoint of the family, tls", with(vip(ProtocolTLS), svcEndpoint("192.0.2.1")), TCP, "[fd00::1]:70", nil, "proxy"},
		{"no endpoint of the family, udp", with(vip(ProtocolUDP), svcEndpoint("192.0.2.1")), UDP, "[fd00::1]:70", nil, "direct"},
		{"no endpoints", vip(ProtocolTCP), TCP, "240.0.0.1:70", nil, "proxy"},
		{"loopback is the proxy's", with(vip(ProtocolTCP), svcEndpoint("127.0.0.1"), svcEndpoint("192.0.2.1")), TCP, "240.0.0.1:70", nil, "proxy"},
		{"weights", with(vip(ProtocolTCP), svcEndpoint("192.0.2.1"), svcEndpointPorts(nil, 20), svcEndpoint("192.0.2.2"), svcEndpointPorts(nil, 10)), TCP, "240.0.0.1:70", nil,
			"direct to 192.0.2.1:70*2 192.0.2.2:70"},
		{"ports", with(vip(ProtocolTCP), svcTarget(7070), svcEndpoint("192.0.2.1"), svcEndpoint("192.0.2.2"), svcEndpointPorts(map[string]uint16{"TCP": 71}, 0)), TCP, "240.0.0.1:70", nil,
			"direct to 192.0.2.1:7070 192.0.2.2:71"},
		{"an endpoint on the service's port", with(vip(ProtocolTCP), svcTarget(7070), svcEndpoint("192.0.2.1"), svcEndpoint("192.0.2.2")), TCP, "192.0.2.2:70", nil,
			"direct to 192.0.2.2:7070"},
		{"an endpoint on its own port", with(vip(ProtocolTCP), svcTarget(7070), svcEndpoint("192.0.2.1")), TCP, "192.0.2.1:7070", nil, "direct"},
		{"an endpoint's own port, tls", with(vip(ProtocolTLS), svcTarget(7070), svcEndpoint("192.0.2.1")), TCP, "192.0.2.1:7070", nil, "inspect"},
		{"cidr", with(se("s", ResolutionStatic, "a.b"), svcAddresses("240.0.0.0/8"), svcPort(70, ProtocolTCP), svcEndpoint("192.0.2.1")), TCP, "240.9.9.9:70", nil,
			"direct to 192.0.2.1:70"},
		{"cidr, tls: no name is proved by a prefix", with(se("s", ResolutionStatic, "a.b"), svcAddresses("240.0.0.0/8"), svcPort(70, ProtocolTLS), svcEndpoint("192.0.2.1")), TCP,
			"240.9.9.9:70", nil, "proxy"},
		{"wildcard, tls: a pattern is no name", with(se("s", ResolutionStatic, "*.b"), svcAddresses("240.0.0.1/32"), svcPort(70, ProtocolTLS), svcEndpoint("192.0.2.1")), TCP,
			"240.0.0.1:70", nil, "proxy"},
		{"wildcard, tcp", with(se("s", ResolutionStatic, "*.b"), svcAddresses("240.0.0.1/32"), svcPort(70, ProtocolTCP), svcEndpoint("192.0.2.1")), TCP, "240.0.0.1:70", nil,
			"direct to 192.0.2.1:70"},
		{"names to resolve", with(se("s", ResolutionDNS, "a.b"), svcAddresses("240.0.0.1/32"), svcPort(70, ProtocolTCP), svcEndpoint("c.d")), TCP, "240.0.0.1:70", nil, "proxy"},
		{"dns behind an address", with(se("s", ResolutionDNS, "a.b"), svcAddresses("240.0.0.1/32"), svcPort(70, ProtocolTCP)), TCP, "240.0.0.1:70", nil, "proxy"},
		{"dns", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolTCP)), TCP, "203.0.113.1:70", []string{"a.b"}, "direct"},
		{"dns, target port", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolTCP), svcTarget(7070)), TCP, "203.0.113.1:70", []string{"a.b"}, "direct to :7070"},
		{"dns, target port, udp", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolUDP), svcTarget(7070)), UDP, "203.0.113.1:70", []string{"a.b"}, "direct to :7070"},
		{"dns, target port, tls", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolTLS), svcTarget(7070)), TCP, "203.0.113.1:70", []string{"a.b"}, "inspect to :7070"},
		{"dns, target port, wildcard", with(se("s", ResolutionDNS, "*.b"), svcPort(70, ProtocolTLS), svcTarget(7070)), TCP, "203.0.113.1:70", []string{"a.b"}, "inspect to :7070"},
		{"dns, foreign endpoints", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolTCP), svcEndpoint("192.0.2.1")), TCP, "203.0.113.1:70", []string{"a.b"},
			"direct to 192.0.2.1:70"},
		{"dns, foreign endpoints, tls", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolTLS), svcEndpoint("2001:db8::1")), TCP, "[2001:db8:1::1]:70", []string{"a.b"},
			"inspect to [2001:db8::1]:70"},
		{"dns, another name", with(se("s", ResolutionDNS, "a.b"), svcPort(70, ProtocolTCP), svcEndpoint("c.d")), TCP, "203.0.113.1:70", []string{"a.b"}, "proxy"},
		{"none, target port", with(se("s", ResolutionNone, "a.b"), svcAddresses("192.0.2.0/24"), svcPort(70, ProtocolTCP), svcTarget(7070)), TCP, "192.0.2.9:70", nil, "direct to :7070"},
		{"none, an address, tls", with(se("s", ResolutionNone, "a.b"), svcAddresses("192.0.2.9/32"), svcPort(70, ProtocolTLS)), TCP, "192.0.2.9:70", nil, "inspect"},
	} {
		p := mustCompile(t, &Config{Services: []*Service{c.s}, AllowedEndpoints: allowing("127.0.0.1")}).Policy(DefaultPolicy)
		d := p.Decide(Flow{Transport: c.tr, Dst: ap(c.dst), Names: c.names})
		if got := (Way{Verdict: d.Verdict, To: d.To}).String(); got != c.want || d.Reason != ReasonAllowed {
			t.Errorf("%s: %s (%s), want %s", c.name, got, d.Reason, c.want)
		}
	}
}

// TestJoinedWays: what several rules say of one address.
func TestJoinedWays(t *testing.T) {
	a, b := NewEndpoints([]UpstreamEndpoint{{Addr: ap("192.0.2.1:70")}}), NewEndpoints([]UpstreamEndpoint{{Addr: ap("192.0.2.2:70")}})
	for _, c := range []struct {
		x, y         Way
		tr           Transport
		join, within Way
	}{
		{Way{Verdict: Direct, To: a}, Way{Verdict: Direct, To: a}, TCP, Way{Verdict: Direct, To: a}, Way{Verdict: Direct, To: a}},
		{Way{Verdict: Direct, To: a}, Way{}, TCP, Way{Verdict: Direct, To: a}, Way{Verdict: Direct, To: a}},
		{Way{}, Way{Verdict: Inspect, To: a}, TCP, Way{Verdict: Inspect, To: a}, Way{Verdict: Inspect, To: a}},
		{Way{Verdict: Direct, To: b}, Way{Verdict: Direct, To: a}, TCP, Way{Verdict: Proxy, Straight: true}, Way{Verdict: Direct, To: b}},
		{Way{Verdict: Direct, To: a}, Way{Verdict: Direct}, TCP, Way{Verdict: Proxy, Straight: true}, Way{Verdict: Direct, To: a}},
		{Way{Verdict: Inspect, To: a}, Way{Verdict: Inspect, To: b}, TCP, Way{Verdict: Proxy}, Way{Verdict: Proxy}},
		{Way{Verdict: Inspect, To: a}, Way{Verdict: Direct, To: a}, TCP, Way{Verdict: Proxy, Straight: true}, Way{Verdict: Proxy, Straight: true}},
		{Way{Verdict: Direct, To: b}, Way{Verdict: Direct, To: a}, UDP, Way{Verdict: Direct, To: a}, Way{Verdict: Direct, To: b}},
		{Way{Verdict: Direct, To: b}, Way{Verdict: Direct}, UDP, Way{Verdict: Direct}, Way{Verdict: Direct, To: b}},
	} {
		if got := c.x.Join(c.y, c.tr); got != c.join {
			t.Errorf("%v and %v: %v, want %v", c.x, c.y, got, c.join)
		}
		if got := c.y.Join(c.x, c.tr); got != c.join {
			t.Errorf("%v and %v the other way round: %v, want %v", c.x, c.y, got, c.join)
		}
		if got := c.x.Within(c.y, c.tr); got != c.within {
			t.Errorf("%v within %v: %v, want %v", c.x, c.y, got, c.within)
		}
	}
}

func TestEndpoints(t *testing.T) {
	list := []UpstreamEndpoint{{Addr: ap("[2001:db8::1]:1"), Weight: 4}, {Addr: ap("192.0.2.1:70"), Weight: 2}, {Addr: netip.AddrPortFrom(netip.Addr{}, 9), Weight: 6}}
	e := NewEndpoints(list)
	if got, want := e.String(), ":9*3 192.0.2.1:70 [2001:db8::1]:1*2"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if again := NewEndpoints(e.List()); again != e {
		t.Errorf("%v read back is %v", e, again)
	}
	if other := NewEndpoints([]UpstreamEndpoint{list[2], list[0], list[1]}); other != e {
		t.Errorf("in another order: %v", other)
	}
	if NewEndpoints(nil) != (Endpoints{}) || !NewEndpoints(nil).IsZero() || (Endpoints{}).List() != nil {
		t.Error("no list is not the zero value")
	}
	dst := ap("203.0.113.5:70")
	for a, want := range map[string]bool{"192.0.2.1:70": true, "192.0.2.1:71": false, "203.0.113.5:9": true, "203.0.113.5:70": false} {
		if e.Has(dst, ap(a)) != want {
			t.Errorf("Has(%s): %t", a, !want)
		}
	}
	if !(Endpoints{}).Has(dst, dst) || (Endpoints{}).Has(dst, ap("203.0.113.5:9")) {
		t.Error("the zero value is what was dialled and nothing else")
	}
}

// TestManyEndpoints: a list has a bound, behind which the core takes over.
func TestManyEndpoints(t *testing.T) {
	s := with(se("s", ResolutionStatic, "a.b"), svcAddresses("240.0.0.1/32"), svcPort(70, ProtocolTCP))
	for i := range MaxEndpoints {
		with(s, svcEndpoint(fmt.Sprintf("10.0.%d.%d", i>>8, i&255)))
	}
	if d := one(t, s).Decide(Flow{Transport: TCP, Dst: ap("240.0.0.1:70")}); d.Verdict != Direct || len(d.To.List()) != MaxEndpoints {
		t.Errorf("%d endpoints: %v with %d", MaxEndpoints, d.Verdict, len(d.To.List()))
	}
	with(s, svcEndpoint("10.1.0.0"))
	if d := one(t, s).Decide(Flow{Transport: TCP, Dst: ap("240.0.0.1:70")}); d.Verdict != Proxy {
		t.Errorf("one more: %v", d.Verdict)
	}
}

// TestStaticNames: what TLS to a service's own addresses must carry.
func TestStaticNames(t *testing.T) {
	p := defaultOf(t, []*Service{
		with(se("s", ResolutionStatic, "a.b", "c.d"), svcAddresses("240.0.0.1/32", "fd00::1/128"), svcPort(443, ProtocolTLS), svcEndpoint("192.0.2.1"), svcEndpoint("2001:db8::1")),
	})
	got := map[string][]string{}
	for _, o := range p.Static() {
		k := fmt.Sprintf("%v %v", o.Prefix, o.Way())
		got[k] = append(got[k], o.Name)
	}
	want := map[string][]string{
		"192.0.2.1/32 inspect":                     {"a.b", "c.d"},
		"240.0.0.1/32 inspect to 192.0.2.1:443":    {"a.b", "c.d"},
		"2001:db8::1/128 inspect":                  {"a.b", "c.d"},
		"fd00::1/128 inspect to [2001:db8::1]:443": {"a.b", "c.d"},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
	// A name is good where the service is, and nowhere else.
	for dst, want := range map[string]Reason{"240.0.0.1:443": ReasonAllowed, "[fd00::1]:443": ReasonAllowed, "192.0.2.1:443": ReasonAllowed, "192.0.2.2:443": ReasonNoRule} {
		d := p.Decide(Flow{Transport: TCP, Dst: ap(dst), Host: "c.d", HostFrom: EvidenceSNI})
		if d.Reason != want || want == ReasonAllowed && d.Verdict != Inspect {
			t.Errorf("c.d at %s: %v %v", dst, d.Verdict, d.Reason)
		}
	}
}
