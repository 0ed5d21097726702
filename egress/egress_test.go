// SPDX-License-Identifier: Apache-2.0

package egress

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy"
)

// fakes: what was learned, what resolving says, and the policy.
type fakes struct {
	learned  map[string][]netip.Addr
	resolves map[string][]netip.Addr
	asked    []string
	snapshot *policy.Snapshot
}

func (f *fakes) NamesOf(_ policy.PolicyID, a netip.Addr) []string {
	var out []string
	for name, addrs := range f.learned {
		if slices.Contains(addrs, a) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (f *fakes) AddrsOf(_ policy.PolicyID, name string) []netip.Addr { return f.learned[name] }

func (f *fakes) ResolveFor(_ context.Context, _ policy.PolicyID, name string, _ *policy.Host) ([]netip.Addr, error) {
	f.asked = append(f.asked, name)
	if a := f.resolves[name]; a != nil {
		return a, nil
	}
	return nil, errors.New("no such name")
}

func (f *fakes) Policy(id policy.PolicyID) *policy.Policy { return f.snapshot.Policy(id) }

func addrs(s ...string) []netip.Addr {
	out := make([]netip.Addr, len(s))
	for i, a := range s {
		out[i] = netip.MustParseAddr(a)
	}
	return out
}

func newTest(t *testing.T, services ...*policy.Service) (*Egress, *fakes) {
	t.Helper()
	return newTestOf(t, &policy.Config{Services: services})
}

func newTestOf(t *testing.T, c *policy.Config) (*Egress, *fakes) {
	t.Helper()
	s, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakes{learned: map[string][]netip.Addr{}, resolves: map[string][]netip.Addr{}, snapshot: s}
	return New(Options{
		Policies: f, Names: f, Resolver: f,
		Guard: ipguard.New(addrs("198.51.100.10")),
	}), f
}

func service(host string, r policy.Resolution, ports ...policy.Port) *policy.Service {
	return &policy.Service{
		Ref:      policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: host},
		External: true, Hosts: []hostname.Pattern{hostname.Pattern(host)}, Ports: ports, Resolution: r,
	}
}

func conn(dst string) *forward.Conn {
	return &forward.Conn{Dst: netip.MustParseAddrPort(dst), Policy: policy.DefaultPolicy}
}

var https = policy.Port{Number: 443, Name: "https", Protocol: policy.ProtocolHTTPS}

// TestAddresses: where a connection really goes, whatever the workload dialled.
func TestAddresses(t *testing.T) {
	wild := service("*.b.example", policy.ResolutionDNS, https)
	none := service("none.example", policy.ResolutionNone, https)
	cidr := service("cidr.example", policy.ResolutionNone, https)
	cidr.Addresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	static := service("static.example", policy.ResolutionStatic, https)
	static.Endpoints = []policy.Endpoint{
		{Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1}, {Addr: netip.MustParseAddr("10.0.0.2"), Weight: 1},
	}
	first := service("rr.example", policy.ResolutionDNSRoundRobin, https)
	dns := service("a.example", policy.ResolutionDNS, https)
	e, f := newTest(t, dns, wild, none, cidr, static, first)
	f.learned["a.example"] = addrs("93.184.216.34", "93.184.216.35", "2606:2800::1")
	f.learned["none.example"] = addrs("93.184.216.40")
	f.learned["rr.example"] = addrs("93.184.216.50", "93.184.216.51")
	f.resolves["x.b.example"] = addrs("93.184.216.60")
	f.resolves["rebind.b.example"] = addrs("10.1.1.1", "127.0.0.1", "169.254.169.254", "::ffff:127.0.0.1", "198.51.100.10")
	f.resolves["mixed.b.example"] = addrs("127.0.0.1", "93.184.216.61")

	for _, c := range []struct {
		name, dst, sni string
		want           []string
		err            error
	}{
		{"the dialled answer first, its family next", "93.184.216.35:443", "a.example",
			[]string{"93.184.216.35:443", "93.184.216.34:443", "[2606:2800::1]:443"}, nil},
		{"an IPv6 answer", "[2606:2800::1]:443", "a.example",
			[]string{"[2606:2800::1]:443", "93.184.216.34:443", "93.184.216.35:443"}, nil},
		{"a stranger's address is never dialled", "203.0.113.66:443", "a.example",
			[]string{"93.184.216.34:443", "93.184.216.35:443", "[2606:2800::1]:443"}, nil},
		{"a wildcard's own name is resolved", "203.0.113.66:443", "x.b.example", []string{"93.184.216.60:443"}, nil},
		{"rebinding answers are refused at the dial", "203.0.113.66:443", "rebind.b.example", nil, dial.ErrAddress},
		{"good answers among bad ones", "203.0.113.66:443", "mixed.b.example", []string{"93.184.216.61:443"}, nil},
		{"unresolved", "203.0.113.66:443", "gone.b.example", nil, dial.ErrResolve},
		{"NONE: the dialled address, learned for the name", "93.184.216.40:443", "none.example", []string{"93.184.216.40:443"}, nil},
		{"NONE: not the dialled address when it is a stranger's", "203.0.113.66:443", "none.example", []string{"93.184.216.40:443"}, nil},
		{"NONE with a prefix: the address itself", "192.0.2.7:443", "cidr.example", []string{"192.0.2.7:443"}, nil},
		{"STATIC: in the order in which they were drawn", "10.0.0.2:443", "static.example", []string{"10.0.0.1:443", "10.0.0.2:443"}, nil},
		{"round robin: one address", "93.184.216.51:443", "rr.example", []string{"93.184.216.51:443"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := conn(c.dst)
			d, u := e.TLS(in, c.sni)
			if d.Verdict == policy.Deny || u == nil {
				t.Fatalf("denied: %+v", d)
			}
			got, err := e.addresses(t.Context(), in, u)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			var text []string
			for _, a := range got {
				text = append(text, a.String())
			}
			if !slices.Equal(text, c.want) {
				t.Errorf("dials %v, want %v", text, c.want)
			}
		})
	}
	if slices.Contains(f.asked, "a.example") {
		t.Error("a learned name was resolved again")
	}
}

// TestOpen: what a connection may be is known from its address.
func TestOpen(t *testing.T) {
	e, f := newTest(t,
		service("a.example", policy.ResolutionDNS, https,
			policy.Port{Number: 80, Name: "http", Protocol: policy.ProtocolHTTP}),
		service("db.example", policy.ResolutionDNS, policy.Port{Number: 3306, Name: "tcp", Protocol: policy.ProtocolTCP},
			policy.Port{Number: 443, Name: "tcp-443", Protocol: policy.ProtocolTCP}))
	f.learned["a.example"] = addrs("93.184.216.34", "93.184.216.99")
	f.learned["db.example"] = addrs("93.184.216.35", "93.184.216.99")
	for dst, want := range map[string]forward.Handling{
		"93.184.216.34:443":  forward.TLS,
		"93.184.216.34:80":   forward.HTTP,
		"93.184.216.35:3306": forward.Opaque,
		"93.184.216.99:443":  forward.Sniff,
		"93.184.216.34:81":   forward.Refuse,
		"203.0.113.66:443":   forward.Refuse,
	} {
		if got := e.Open(conn(dst)); got.Protocol != want {
			t.Errorf("%s: protocol %d (%+v), want %d", dst, got.Protocol, got.Decision, want)
		}
	}
	gone := conn("93.184.216.34:443")
	gone.Policy = 77
	if got := e.Open(gone); got.Protocol != forward.Refuse || got.Reason != policy.ReasonNoWorkload {
		t.Errorf("an unknown policy: %+v", got)
	}
	gone.Policy = policy.UnknownWorkload
	if got := e.Open(gone); got.Protocol != forward.Refuse || got.Reason != policy.ReasonUnknownWorkload {
		t.Errorf("a workload of which nothing is known: %+v", got)
	}
}

// TestAudit: in audit mode a denial is marked and goes where it was dialled.
func TestAudit(t *testing.T) {
	e, f := newTest(t, service("a.example", policy.ResolutionDNS, https))
	f.learned["a.example"] = addrs("93.184.216.34")
	c := conn("93.184.216.34:443")
	if d, u := e.TLS(c, "evil.example"); d.Verdict != policy.Deny || d.Reason != policy.ReasonName || u != nil {
		t.Errorf("enforce: %+v to %v", d, u)
	}
	c.Mode = policy.Audit
	d, u := e.TLS(c, "evil.example")
	if d.Verdict != policy.Proxy || !d.WouldDeny || d.Reason != policy.ReasonName || u == nil {
		t.Fatalf("audit: %+v to %v", d, u)
	}
	if got, err := e.addresses(t.Context(), c, u); err != nil || len(got) != 1 || got[0] != c.Dst {
		t.Errorf("audit dials %v, %v; want %s", got, err, c.Dst)
	}
	stranger := conn("203.0.113.66:443")
	stranger.Mode = policy.Audit
	if o := e.Open(stranger); o.Protocol != forward.Opaque || !o.WouldDeny {
		t.Errorf("audit of a stranger's address: %+v", o)
	}
}

// TestAuditOfDestination: that a rule leads where the workload may not go is a
// denial as any other: in audit mode it is marked, and the request goes where it
// was dialled.
func TestAuditOfDestination(t *testing.T) {
	http := policy.Port{Number: 80, Protocol: policy.ProtocolHTTP}
	inside := service("inside.default.svc.cluster.local", policy.ResolutionStatic, http)
	inside.External = false
	ref := policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "v"}
	e, _ := newTestOf(t, &policy.Config{
		Services: []*policy.Service{service("a.example", policy.ResolutionDNS, http), inside},
		VirtualServices: []*policy.VirtualService{{Ref: ref, Hosts: []hostname.Pattern{"a.example"}, Gateways: []string{"mesh"}, HTTP: []*policy.HTTPRule{{
			Ref: ref, Route: []*policy.WeightedDestination{{Destination: policy.Destination{Host: "inside.default.svc.cluster.local", Port: 80}}},
		}}}},
	})
	for _, mode := range []policy.Mode{policy.Enforce, policy.Audit} {
		c := conn("93.184.216.34:80")
		c.Mode = mode
		d := e.HTTP(c, &policy.Request{Method: "GET", Authority: "a.example", Host: "a.example", Path: "/", Port: 80})
		audit := mode == policy.Audit
		if d.Reason != policy.ReasonName || d.WouldDeny != audit || (d.Verdict == policy.Deny) == audit || (d.Upstream != nil) != audit {
			t.Errorf("mode %v: %+v", mode, d)
		}
	}
}

// TestEmptyStatic: a STATIC service without endpoints is nowhere, as explain says.
func TestEmptyStatic(t *testing.T) {
	e, f := newTest(t, service("empty.example", policy.ResolutionStatic, https))
	c := conn("93.184.216.34:443")
	d, u := f.snapshot.Policy(policy.DefaultPolicy).DecideTLS(e.flow(c, policy.DefaultPolicy), "empty.example")
	if d.Verdict == policy.Deny || u.Nowhere() == "" {
		t.Fatalf("%+v to %+v", d, u)
	}
	if got, err := e.Dial(t.Context(), c, u); !errors.Is(err, dial.ErrConnect) {
		t.Errorf("dialled %v, %v", got, err)
	}
}

// TestAllowAny: what no rule names goes where it was dialled, but not to
// places that are not for workloads.
func TestAllowAny(t *testing.T) {
	for _, c := range []struct {
		mode policy.OutboundMode
		dst  string
		want policy.Reason
	}{
		{policy.AllowAny, "203.0.113.66:8080", policy.ReasonAllowed},
		{policy.AllowAny, "[2606:4700::66]:8080", policy.ReasonAllowed},
		{policy.AllowAny, "10.1.2.3:8080", policy.ReasonAllowed},
		{policy.AllowAny, "127.0.0.1:8080", policy.ReasonAddress},
		{policy.AllowAny, "[::1]:8080", policy.ReasonAddress},
		{policy.AllowAny, "169.254.169.254:80", policy.ReasonAddress},
		{policy.AllowAny, "198.51.100.10:8080", policy.ReasonAddress}, // the node's own
		{policy.RegistryOnly, "203.0.113.66:8080", policy.ReasonNoRule},
	} {
		e, _ := newTestOf(t, &policy.Config{Mesh: policy.Mesh{Outbound: c.mode}})
		o := e.Open(conn(c.dst))
		if o.Reason != c.want || (o.Protocol == forward.Opaque) != (c.want == policy.ReasonAllowed) {
			t.Errorf("%v %s: protocol %d, %v", c.mode, c.dst, o.Protocol, o.Reason)
		}
		if c.mode == policy.RegistryOnly {
			continue
		}
		d, u := e.TLS(conn(c.dst), "who.example")
		h := e.HTTP(conn(c.dst), &policy.Request{Host: "who.example", Path: "/"})
		if d.Reason != c.want || (u != nil) != (c.want == policy.ReasonAllowed) || h.Reason != c.want {
			t.Errorf("%s: tls %v, http %v", c.dst, d.Reason, h.Reason)
		}
		if c.want != policy.ReasonAllowed {
			continue
		}
		if got, err := e.addresses(t.Context(), conn(c.dst), u); err != nil || len(got) != 1 || got[0].String() != c.dst {
			t.Errorf("%s: dials %v, %v", c.dst, got, err)
		}
	}
}

// TestSource: an address that a redirection made up is nobody's.
func TestSource(t *testing.T) {
	for src, want := range map[string]bool{"10.0.0.7:1": true, "[fd00::7]:1": true, "127.0.0.1:1": false, "[::1]:1": false, "[::ffff:127.0.0.1]:1": false} {
		e, _ := newTest(t)
		c := conn("203.0.113.1:80")
		c.Src = netip.MustParseAddrPort(src)
		if got := e.flow(c, policy.DefaultPolicy).Src; got.IsValid() != want {
			t.Errorf("%s is taken as %v", src, got)
		}
	}
}

// TestUnsupported: an upstream that needs what is not there is not dialled.
func TestUnsupported(t *testing.T) {
	e, _ := newTest(t)
	u := &policy.Upstream{Host: "x", Endpoints: []policy.UpstreamEndpoint{{Addr: netip.MustParseAddrPort("203.0.113.1:1"), Weight: 1}},
		Traffic: &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSIstioMutual}}}
	if _, err := e.Dial(t.Context(), conn("203.0.113.1:1"), u); !errors.Is(err, dial.ErrUnsupported) {
		t.Errorf("dialled: %v", err)
	}
}
