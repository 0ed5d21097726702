// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/hostname"
)

// dr is a DestinationRule; its connect timeout tells rules apart.
func dr(namespace, name string, host hostname.Pattern, timeout time.Duration) *DestinationRule {
	return &DestinationRule{
		Ref: Ref{Kind: "DestinationRule", Namespace: namespace, Name: name, File: name + ".yaml", Line: 1}, Host: host,
		Traffic: &TrafficPolicy{Pool: &ConnectionPool{ConnectTimeout: timeout}},
	}
}

func TestEffectiveTraffic(t *testing.T) {
	g := (*destinationGroup)(nil).with(&DestinationRule{
		Traffic: &TrafficPolicy{
			Pool: &ConnectionPool{MaxConnections: 1}, TLS: &ClientTLS{Mode: TLSSimple}, Tunnel: &Tunnel{TargetHost: "p"},
			Ports: map[uint16]*TrafficPolicy{80: {Pool: &ConnectionPool{MaxConnections: 2}}},
		},
		Subsets: []Subset{
			{Name: "one", Traffic: &TrafficPolicy{TLS: &ClientTLS{Mode: TLSDisable}}},
			{Name: "two", Traffic: &TrafficPolicy{Ports: map[uint16]*TrafficPolicy{443: {TLS: &ClientTLS{Mode: TLSMutual}}}}},
		},
	})
	for _, c := range []struct {
		subset string
		port   uint16
		pool   int
		tls    string
	}{
		{"", 443, 1, "SIMPLE"},
		{"", 80, 2, ""}, // replaced, nothing inherited
		{"one", 443, 1, "DISABLE"},
		{"one", 80, 2, ""},
		{"two", 443, 0, "MUTUAL"},
		{"two", 80, 1, "SIMPLE"}, // the subset's ports replace the host's
	} {
		p := g.effective(g.subset(c.subset), c.port)
		pool, tls := 0, ""
		if p.Pool != nil {
			pool = p.Pool.MaxConnections
		}
		if p.TLS != nil {
			tls = p.TLS.Mode.String()
		}
		if pool != c.pool || tls != c.tls || p.Tunnel == nil || p.Ports != nil {
			t.Errorf("subset %q port %d: %s", c.subset, c.port, p.Describe())
		}
	}
}

// TestNotSupported: what would have to leave otherwise than it came does not pass the
// kernel, and is denied where the forwarding core decides if it cannot be done there.
func TestNotSupported(t *testing.T) {
	services := func() []*Service {
		return []*Service{
			with(se("http", ResolutionDNS, "x.example.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcPort(5432, ProtocolTCP)),
			with(se("free", ResolutionDNS, "free.example.com"), svcPort(80, ProtocolHTTP), svcPort(443, ProtocolTLS), svcPort(5432, ProtocolTCP)),
		}
	}
	for name, traffic := range map[string]*TrafficPolicy{
		"simple": {TLS: &ClientTLS{Mode: TLSSimple}}, "mutual": {TLS: &ClientTLS{Mode: TLSMutual}}, "istio": {TLS: &ClientTLS{Mode: TLSIstioMutual}},
		"refused": {TLS: &ClientTLS{Mode: TLSMutual, Refused: "another's credential"}},
		"tunnel":  {Tunnel: &Tunnel{Protocol: "CONNECT", TargetHost: "p"}}, "post": {Tunnel: &Tunnel{Protocol: "POST", TargetHost: "p"}},
		"proxy protocol": {ProxyProtocol: 1}, "both": {Tunnel: &Tunnel{TargetHost: "p"}, ProxyProtocol: 2}, "disabled": {TLS: &ClientTLS{}},
	} {
		rule := dr("default", "d", "x.example.com", 0)
		rule.Traffic = traffic
		v := vs("v", mesh, names("free.example.com"), to("", "x.example.com", 80))
		v.TLS = []*TLSRule{{Ref: v.Ref, Matches: []*L4Match{{SNIHosts: v.Hosts}}, Route: []*WeightedDestination{{Destination: Destination{Host: "x.example.com", Port: 443}}}}}
		p := mustCompile(t, &Config{Services: services(), VirtualServices: []*VirtualService{v}, DestinationRules: []*DestinationRule{rule}}).Policy(DefaultPolicy)
		want := ReasonAllowed
		switch name {
		case "istio", "refused", "post", "both":
			want = ReasonNotSupported
		}
		at := func(port uint16, name string) Flow {
			return Flow{Transport: TCP, Dst: netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), port), Names: []string{name}}
		}
		tls, tu := p.DecideTLS(at(443, "x.example.com"), "x.example.com")
		routed, ru := p.DecideTLS(at(443, "free.example.com"), "free.example.com")
		opaque := p.Candidates(at(5432, "x.example.com"))
		for what, got := range map[string]struct {
			d Decision
			u *Upstream
		}{
			"http": httpResult(p, at(80, "x.example.com"), "x.example.com"), "routed http": httpResult(p, at(80, "free.example.com"), "free.example.com"),
			"tls": {tls, tu}, "routed tls": {routed, ru}, "opaque": {opaque.Decision, opaque.Opaque},
		} {
			if got.d.Reason != want || (got.d.Verdict == Deny) != (want != ReasonAllowed) || (got.u != nil) != (want == ReasonAllowed) {
				t.Errorf("%s, %s: %v %v to %v", name, what, got.d.Verdict, got.d.Reason, got.u)
			}
			if want != ReasonAllowed && ruleName(got.d.Rule) != "d" {
				t.Errorf("%s, %s: by %q", name, what, ruleName(got.d.Rule))
			}
		}
		for _, o := range p.Openings("x.example.com", netip.MustParseAddr("203.0.113.1")) {
			if (o.Verdict == Proxy) != (name != "disabled" || o.Port == 80) {
				t.Errorf("%s: the kernel has %+v", name, o)
			}
		}
	}
}

func httpResult(p *Policy, f Flow, host string) struct {
	d Decision
	u *Upstream
} {
	d := p.DecideHTTP(f, get(host, "/"))
	u := d.Upstream
	if d.Action != nil {
		u = d.Action.Pick(0).Upstream
	}
	return struct {
		d Decision
		u *Upstream
	}{d.Decision, u}
}

func TestSubsets(t *testing.T) {
	label := func(v string) map[string]string { return map[string]string{"version": v} }
	s := with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, ProtocolHTTP), svcEndpoint("192.0.2.1"), svcLabels(label("v1")), svcEndpoint("192.0.2.2"), svcLabels(label("v2")), svcEndpoint("2001:db8::1"), svcLabels(label("v1")))
	dns := with(se("dns", ResolutionDNS, "dns.example.com"), svcPort(80, ProtocolHTTP), svcEndpoint("a.example.net"), svcLabels(label("v1")), svcEndpoint("b.example.net"))
	bare := with(se("bare", ResolutionDNS, "bare.example.com"), svcPort(80, ProtocolHTTP))
	rule := dr("default", "d", "*.example.com", 1)
	rule.Subsets = []Subset{{Name: "v1", Labels: label("v1")}, {Name: "v3", Labels: label("v3")}, {Name: "all"}}
	for _, c := range []struct{ host, subset, want string }{
		{"s.example.com", "v1", "192.0.2.1:80 [2001:db8::1]:80"},
		{"s.example.com", "all", "192.0.2.1:80 192.0.2.2:80 [2001:db8::1]:80"},
		{"s.example.com", "v3", "not supported"},
		{"s.example.com", "none", "unknown"},
		{"dns.example.com", "v1", "a.example.net:80"},
		{"bare.example.com", "v1", "not supported"},
		{"bare.example.com", "all", "bare.example.com:80"},
	} {
		r := to("", c.host, 80)
		r.Route[0].Destination.Subset = c.subset
		p := mustCompile(t, &Config{Services: []*Service{s, dns, bare}, DestinationRules: []*DestinationRule{rule},
			VirtualServices: []*VirtualService{vs("v", mesh, names(hostname.Pattern(c.host)), r)}}).Policy(DefaultPolicy)
		d := p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80")}, get(c.host, "/"))
		got := "unknown"
		switch {
		case d.Reason == ReasonNotSupported:
			got = "not supported"
		case d.Action.Pick(0).Upstream != nil:
			_, got, _ = strings.Cut(upstreamText(d.Action.Pick(0).Upstream), " subset "+c.subset+" ")
			got, _, _ = strings.Cut(got, " traffic ")
		}
		if got != c.want {
			t.Errorf("%s subset %s: %q, want %q", c.host, c.subset, got, c.want)
		}
	}
}

// TestBalancedInTheCore: where a rule says how endpoints or connections are used, the
// kernel does not choose, whatever was dialled. How long a connection may take to be
// made changes nothing, and a rule can't balance what the workload chooses.
func TestBalancedInTheCore(t *testing.T) {
	for name, tt := range map[string]struct {
		traffic    *TrafficPolicy
		resolution Resolution
		want       Verdict
	}{
		"no rule":         {nil, ResolutionStatic, Direct},
		"connect timeout": {&TrafficPolicy{Pool: &ConnectionPool{ConnectTimeout: time.Second, MaxRequestsPerConn: 1}}, ResolutionStatic, Direct},
		"load balancer":   {&TrafficPolicy{LoadBalancer: &LoadBalancer{Simple: RoundRobin}}, ResolutionStatic, Proxy},
		"outlier":         {&TrafficPolicy{Outlier: &OutlierDetection{}}, ResolutionStatic, Proxy},
		"connections":     {&TrafficPolicy{Pool: &ConnectionPool{MaxConnections: 1}}, ResolutionStatic, Proxy},
		"idle":            {&TrafficPolicy{Pool: &ConnectionPool{TCPIdleTimeout: -1}}, ResolutionStatic, Proxy},
		"of nothing":      {&TrafficPolicy{LoadBalancer: &LoadBalancer{Simple: RoundRobin}}, ResolutionNone, Direct},
		"limit of NONE":   {&TrafficPolicy{Pool: &ConnectionPool{MaxConnections: 1}}, ResolutionNone, Proxy},
	} {
		s := with(se("s", tt.resolution, "s.example.com"), svcPort(5432, ProtocolTCP), svcAddresses("240.1.1.1/32", "fd00::1/128"))
		if tt.resolution == ResolutionStatic {
			with(s, svcEndpoint("192.0.2.1"), svcEndpoint("2001:db8::1"))
		}
		c := &Config{Services: []*Service{s}}
		if tt.traffic != nil {
			c.DestinationRules = []*DestinationRule{{Ref: Ref{Kind: "DestinationRule", Namespace: "default", Name: "r"}, Host: "s.example.com", Traffic: tt.traffic}}
		}
		p := mustCompile(t, c).Policy(DefaultPolicy)
		dialled := []string{"240.1.1.1:5432", "[fd00::1]:5432"}
		if tt.resolution == ResolutionStatic {
			dialled = append(dialled, "192.0.2.1:5432", "[2001:db8::1]:5432")
		}
		for _, a := range dialled {
			if d := p.Decide(Flow{Transport: TCP, Dst: ap(a)}); d.Verdict != tt.want {
				t.Errorf("%s: %s: %v, want %v", name, a, d.Verdict, tt.want)
			}
		}
	}
}

func TestSocketEndpoints(t *testing.T) {
	s := with(se("s", ResolutionStatic, "s.example.com"), svcPort(5432, ProtocolTCP), svcAddresses("240.1.1.1/32", "fd00::1/128"))
	s.Endpoints = []Endpoint{{Unix: "/run/db.sock", Weight: 2}}
	p := mustCompile(t, &Config{Services: []*Service{s}, AllowedEndpoints: allowing("unix:///run/db.sock")}).Policy(DefaultPolicy)
	for _, a := range []string{"240.1.1.1:5432", "[fd00::1]:5432"} {
		f := Flow{Transport: TCP, Dst: ap(a)}
		if d := p.Decide(f); d.Verdict != Proxy {
			t.Errorf("%s: %v", a, d.Verdict)
		}
		if c := p.Candidates(f); c.Opaque == nil || c.Opaque.Endpoints[0] != (UpstreamEndpoint{Unix: "/run/db.sock", Weight: 2}) {
			t.Errorf("%s: %+v", a, c.Opaque)
		}
	}
	bad := func(want string, edit func(*Service)) {
		s := with(se("s", ResolutionStatic, "s.example.com"), svcPort(5432, ProtocolTCP))
		s.Endpoints = []Endpoint{{Unix: "/run/db.sock"}}
		edit(s)
		if _, err := Compile(&Config{Services: []*Service{s}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	bad("needs resolution STATIC", func(s *Service) { s.Resolution = ResolutionDNS })
	bad("neither an absolute path", func(s *Service) { s.Endpoints[0].Unix = "run" })
	bad("some are not", func(s *Service) { with(s, svcEndpoint("192.0.2.1")) })
	bad("cannot serve a UDP port", func(s *Service) { with(s, svcPort(53, ProtocolUDP)) })
	bad("has an address as well", func(s *Service) { s.Endpoints[0].Addr = netip.MustParseAddr("192.0.2.1") })
}
