// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/ipguard"
)

// local are node-local places, with consents that open them and some that do
// not.
var local = []struct {
	place     string
	good, bad []string
}{
	{"127.0.0.1", []string{"127.0.0.1", "127.0.0.1:80", "127.0.0.0/8", "0.0.0.0/0", "::ffff:127.0.0.1"}, []string{"127.0.0.2", "127.0.0.1:81", "::1", "unix:///run/x"}},
	{"127.9.9.9", []string{"127.0.0.0/8"}, []string{"127.0.0.1"}},
	{"0.0.0.0", []string{"0.0.0.0"}, []string{"127.0.0.1"}},
	{"169.254.169.254", []string{"169.254.169.254", "169.254.0.0/16"}, []string{"169.254.169.253"}},
	{"100.100.100.200", []string{"100.100.100.200:80"}, []string{"100.100.100.201"}},
	{"168.63.129.16", []string{"168.63.129.16"}, []string{"168.63.129.17"}},
	{"::1", []string{"::1", "[::1]:80", "::/0"}, []string{"[::1]:81", "127.0.0.1"}},
	{"::", []string{"::"}, []string{"::1"}},
	{"fe80::1", []string{"fe80::/10"}, []string{"fe80::2"}},
	{"fd00:ec2::254", []string{"fd00:ec2::254"}, []string{"fd00:ec2::255"}},
	{"64:ff9b::a9fe:a9fe", []string{"64:ff9b::a9fe:a9fe"}, []string{"169.254.169.254"}},
	{"2002:7f00:1::1", []string{"2002:7f00:1::1"}, []string{"127.0.0.1"}},
}

func allowed(t *testing.T, s *Service, list ...string) *Policy {
	t.Helper()
	return mustCompile(t, &Config{Services: []*Service{s}, AllowedEndpoints: allowing(list...)}).Policy(DefaultPolicy)
}

// TestNodeLocalEndpoints: nothing leads to a node-local endpoint without the
// node's consent, whatever the protocol and however it is dialled, and the
// kernel's tables never have it.
func TestNodeLocalEndpoints(t *testing.T) {
	for _, c := range local {
		addr := netip.MustParseAddr(c.place)
		one := netip.PrefixFrom(addr, addr.BitLen())
		for _, pr := range []Protocol{ProtocolUnset, ProtocolHTTP, ProtocolTLS, ProtocolTCP, ProtocolUDP} {
			for what, s := range map[string]*Service{
				"endpoint":                  with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, pr), svcEndpoint(c.place)),
				"endpoint behind addresses": with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, pr), svcAddresses("240.0.0.1/32", "fd00::9/128"), svcEndpoint(c.place)),
				"endpoint on another port":  with(se("s", ResolutionStatic, "s.example.com"), svcPort(8080, pr), svcTarget(80), svcEndpoint(c.place)),
				"endpoint of a name":        with(se("s", ResolutionDNS, "s.example.com"), svcPort(80, pr), svcEndpoint(c.place)),
				"address":                   with(se("s", ResolutionNone, "s.example.com"), svcPort(80, pr), svcAddresses(one.String())),
			} {
				name := fmt.Sprintf("%s %s %v", what, c.place, pr)
				for _, list := range append([][]string{nil}, c.bad) {
					if err := leads(allowed(t, s, list...), s, addr); err != "" {
						t.Errorf("%s with %v: %s", name, list, err)
					}
				}
				for _, good := range c.good {
					if err := leads(allowed(t, s, good), s, addr); err == "" {
						t.Errorf("%s with %s: nothing leads there", name, good)
					}
				}
			}
		}
	}
}

// leads says how a policy with one service leads to an address; "" when it
// does not.
func leads(p *Policy, s *Service, addr netip.Addr) string {
	port := s.Ports[0]
	host := p.Lookup("s.example.com")
	for _, o := range append(p.Static(), p.Openings("s.example.com", netip.MustParseAddr("203.0.113.9"))...) {
		to := slices.ContainsFunc(o.To.List(), func(e UpstreamEndpoint) bool { return e.Addr.Addr() == addr })
		if to || o.Prefix.Contains(addr) && o.Verdict != Deny {
			return fmt.Sprintf("opening %+v", o)
		}
	}
	if slices.ContainsFunc(host.Literal, func(l netip.Prefix) bool { return l.Contains(addr) }) || slices.Contains(host.Answers, addr) {
		return "an address of the host"
	}
	to := func(u *Upstream) bool {
		return u != nil && slices.ContainsFunc(u.Endpoints, func(e UpstreamEndpoint) bool { return e.Addr.Addr() == addr })
	}
	for _, dst := range []netip.Addr{addr, netip.MustParseAddr("240.0.0.1"), netip.MustParseAddr("fd00::9")} {
		for _, n := range []uint16{80, 8080} {
			f := Flow{Transport: port.Protocol.Transport(), Dst: netip.AddrPortFrom(dst, n)}
			if d := p.Decide(f); dst == addr && d.Verdict != Deny {
				return fmt.Sprintf("decided %+v", d)
			}
			if f.Transport == UDP {
				if d := p.Decide(f); d.Verdict != Deny && len(s.Addresses) > 0 && s.Resolution == ResolutionStatic {
					return fmt.Sprintf("UDP %v", d)
				}
				continue
			}
			if c := p.Candidates(f); to(c.Opaque) {
				return "an opaque connection"
			}
			if _, u := p.DecideTLS(f, "s.example.com"); to(u) {
				return "TLS"
			}
			r := &Request{Method: "GET", Scheme: "http", Host: "s.example.com", Authority: "s.example.com", Path: "/", Port: n}
			if d := p.DecideHTTP(f, r); to(d.Upstream) {
				return "HTTP"
			}
		}
	}
	return ""
}

// TestConsentReason: what is refused says so, and what allows it.
func TestConsentReason(t *testing.T) {
	s := with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, ProtocolHTTP), svcAddresses("240.0.0.1/32"), svcEndpoint("127.0.0.1"))
	p := allowed(t, s)
	r := &Request{Method: "GET", Scheme: "http", Host: "s.example.com", Authority: "s.example.com", Path: "/", Port: 80}
	f := Flow{Transport: TCP, Dst: ap("240.0.0.1:80")}
	if d := p.DecideHTTP(f, r); d.Verdict != Deny || d.Reason != ReasonEndpoint || *d.Rule != s.Ref {
		t.Errorf("%v %s %v", d.Verdict, d.Reason, d.Rule)
	}
	if d := p.Decide(Flow{Transport: TCP, Dst: ap("127.0.0.1:80")}); d.Reason != ReasonEndpoint {
		t.Errorf("the endpoint itself: %s", d.Reason)
	}
	u := p.Lookup("s.example.com").Port(TCP, 80).Upstream
	if want := "endpoint 127.0.0.1:80 is on the node, or for the node alone; --allow-endpoint 127.0.0.1:80 lets policies lead there"; u.Unsupported() != want {
		t.Error(u.Unsupported())
	}
	// Of several endpoints the others go on.
	with(s, svcEndpoint("192.0.2.1"))
	if d := allowed(t, s).DecideHTTP(f, r); d.Verdict != Proxy || len(d.Upstream.Endpoints) != 1 || d.Upstream.Unsupported() != "" {
		t.Errorf("%v %s", d.Verdict, d.Reason)
	}
	udp := with(se("s", ResolutionStatic, "s.example.com"), svcPort(53, ProtocolUDP), svcAddresses("240.0.0.1/32"), svcEndpoint("::1"))
	if d := allowed(t, udp).Decide(Flow{Transport: UDP, Dst: ap("240.0.0.1:53")}); d.Reason != ReasonEndpoint {
		t.Errorf("UDP: %v %s", d.Verdict, d.Reason)
	}
}

// TestConsentOfSockets: by path and by abstract name.
func TestConsentOfSockets(t *testing.T) {
	for _, c := range []struct {
		socket string
		allow  []string
		want   bool
	}{
		{"/run/app.sock", nil, false},
		{"/run/app.sock", []string{"unix:///run/app.sock"}, true},
		{"/run//x/../app.sock", []string{"unix:///run/app.sock"}, true},
		{"/run/app.sock2", []string{"unix:///run/app.sock", "0.0.0.0/0"}, false},
		{"@app", []string{"unix://@app"}, true},
		{"@app", []string{"unix:///app"}, false},
	} {
		s := with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, ProtocolTCP), svcAddresses("240.0.0.1/32"))
		s.Endpoints = []Endpoint{{Unix: c.socket}}
		got := allowed(t, s, c.allow...).Candidates(Flow{Transport: TCP, Dst: ap("240.0.0.1:80")})
		if (got.Opaque != nil) != c.want || !c.want && got.Reason != ReasonEndpoint {
			t.Errorf("%s with %v: %+v", c.socket, c.allow, got)
		}
	}
}

// TestWidePrefixes: a prefix around node-local addresses opens the rest.
func TestWidePrefixes(t *testing.T) {
	s := with(se("s", ResolutionNone, "s.example.com"), svcPort(80, ProtocolTCP), svcPort(53, ProtocolUDP), svcAddresses("0.0.0.0/0", "::/0"))
	p := allowed(t, s, "169.254.169.254:80", "fe80::5")
	for dst, want := range map[string]Reason{
		"192.0.2.1:80": ReasonAllowed, "169.254.169.254:80": ReasonAllowed, "169.254.169.253:80": ReasonEndpoint, "127.0.0.1:80": ReasonEndpoint,
		"100.100.100.200:80": ReasonEndpoint, "100.100.100.201:80": ReasonAllowed,
		"[2001:db8::1]:80": ReasonAllowed, "[fe80::5]:80": ReasonAllowed, "[fe80::6]:80": ReasonEndpoint, "[::1]:80": ReasonEndpoint,
		"[64:ff9b::7f00:1]:80": ReasonEndpoint, "[64:ff9b::c000:201]:80": ReasonAllowed, "[fd00:ec2::254]:80": ReasonEndpoint,
	} {
		if d := p.Decide(Flow{Transport: TCP, Dst: ap(dst)}); d.Reason != want {
			t.Errorf("tcp %s: %s, want %s", dst, d.Reason, want)
		}
		a := ap(dst).Addr()
		literal := slices.ContainsFunc(p.Lookup("s.example.com").Literal, func(l netip.Prefix) bool { return l.Contains(a) })
		if literal != (want == ReasonAllowed && dst != "169.254.169.254:80") { // allowed on one port of two
			t.Errorf("%s: an address of the host: %t", a, literal)
		}
	}
	if d := p.Decide(Flow{Transport: UDP, Dst: ap("169.254.169.254:53")}); d.Reason != ReasonEndpoint {
		t.Errorf("udp: %s", d.Reason)
	}
	if d := p.Decide(Flow{Transport: UDP, Dst: ap("192.0.2.1:53")}); d.Verdict != Direct {
		t.Errorf("udp: %s", d.Reason)
	}
	// What the kernel is told of a longest prefix is what is decided.
	for _, dst := range []string{"169.254.169.254", "169.254.0.9", "127.0.0.1", "192.0.2.1", "fe80::5", "fe80::6", "::1", "2001:db8::1"} {
		a := netip.MustParseAddr(dst)
		best := Opening{Prefix: netip.PrefixFrom(a, 0)}
		for _, o := range p.Static() {
			if o.Transport == TCP && o.Prefix.Contains(a) && o.Prefix.Bits() >= best.Prefix.Bits() {
				best = o
			}
		}
		d := p.Decide(Flow{Transport: TCP, Dst: netip.AddrPortFrom(a, 80)})
		if d.Verdict == Deny && best.Verdict != Proxy || d.Verdict != Deny && best.Verdict != d.Verdict {
			t.Errorf("%s: decided %v, the kernel has %+v", dst, d.Verdict, best)
		}
	}
}

// TestConsentChanges: another consent is another policy, by way of Update.
func TestConsentChanges(t *testing.T) {
	s := []*Service{with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, ProtocolTCP), svcEndpoint("127.0.0.1"))}
	without := mustCompile(t, &Config{Services: s})
	with, err := without.Update(&Config{Services: s, AllowedEndpoints: allowing("127.0.0.1:80")})
	if err != nil {
		t.Fatal(err)
	}
	again, err := with.Update(&Config{Services: s})
	if err != nil || with.Hash() == without.Hash() || again.Hash() != without.Hash() {
		t.Errorf("%v %s %s %s", err, without.Hash(), with.Hash(), again.Hash())
	}
}

// TestAddressesForNames: a name that is an address is that address.
func TestAddressesForNames(t *testing.T) {
	host := with(se("s", ResolutionDNS, "127.0.0.1"), svcPort(80, ProtocolHTTP))
	endpoint := with(se("e", ResolutionDNS, "e.example.com"), svcPort(80, ProtocolHTTP))
	endpoint.Endpoints = []Endpoint{{Host: "127.0.0.1"}}
	front := with(se("f", ResolutionDNS, "f.example.com"), svcPort(80, ProtocolHTTP))
	r := &Request{Method: "GET", Scheme: "http", Host: "f.example.com", Authority: "f.example.com", Path: "/", Port: 80}
	for _, to := range []*HTTPRule{to("", "127.0.0.1", 80), to("", "e.example.com", 80)} {
		p := defaultOf(t, []*Service{host, endpoint, front}, vs("v", mesh, names("f.example.com"), to))
		if d := p.DecideHTTP(Flow{Dst: ap("203.0.113.1:80"), Names: []string{r.Host}}, r); d.Reason != ReasonEndpoint {
			t.Errorf("%s: %v %s", to.Route[0].Destination.Host, d.Verdict, d.Reason)
		}
	}
}

// TestExternalNameConsent: what a Kubernetes Service is another name for needs
// consent as well.
func TestExternalNameConsent(t *testing.T) {
	s := &Service{Resolution: ResolutionDNS, Ports: []Port{{Number: 80, Protocol: ProtocolHTTP}}, Endpoints: []Endpoint{{Host: "127.0.0.1"}}}
	if u := newUpstream(NewConsent(nil), "k", s, &s.Ports[0], s.Endpoints); !u.unreachable() {
		t.Errorf("an ExternalName: %s", upstreamText(u))
	}
	s.Endpoints[0].Host = "192.0.2.1"
	if u := newUpstream(NewConsent(nil), "k", s, &s.Ports[0], s.Endpoints); u.unreachable() {
		t.Errorf("an ExternalName elsewhere: %s", upstreamText(u))
	}
}

func TestParseAllowedEndpoint(t *testing.T) {
	for text, want := range map[string]string{
		"unix:///run/a.sock": "unix:///run/a.sock", "unix://@a": "unix://@a", "127.0.0.1": "127.0.0.1", "127.0.0.1:80": "127.0.0.1:80",
		"127.0.0.0/8": "127.0.0.0/8", "[::1]:80": "[::1]:80", "::1": "::1", "::ffff:127.0.0.1": "127.0.0.1", "[::ffff:127.0.0.1]:8": "127.0.0.1:8",
		"169.254.169.254/16": "169.254.0.0/16", "::ffff:127.0.0.0/104": "127.0.0.0/8",
		"unix://@" + strings.Repeat("a", 107): "unix://@" + strings.Repeat("a", 107), "unix://@" + strings.Repeat("a", 108): "", "unix:///" + strings.Repeat("a", 200): "unix:///" + strings.Repeat("a", 200),
		"unix://run/a": "", "unix:///run/../a": "", "unix:///run/": "", "unix://": "", "unix:///": "", "unix://@": "", "fe80::1%eth0": "", "127.0.0.1:0": "", "localhost": "", "": "", "127.0.0.1:x": "",
	} {
		a, err := ParseAllowedEndpoint(text)
		if got := a.String(); err == nil && got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
}

// TestWhyConsent: explain names the remedy.
func TestWhyConsent(t *testing.T) {
	s := with(se("s", ResolutionStatic, "s.example.com"), svcPort(80, ProtocolHTTP), svcEndpoint("127.0.0.1"))
	p := allowed(t, s)
	r := &Request{Method: "GET", Scheme: "http", Host: "s.example.com", Authority: "s.example.com", Path: "/", Port: 80}
	for what, x := range map[string]Account{
		"http":    p.Why(Flow{Transport: TCP, Dst: ap("203.0.113.1:80")}, r),
		"address": p.Why(Flow{Transport: TCP, Dst: ap("127.0.0.1:80")}, nil),
	} {
		said := x.Nearest != nil && strings.Contains(x.Nearest.Why, "--allow-endpoint 127.0.0.1")
		if x.Allowed || x.Reason != ReasonEndpoint || !said {
			t.Errorf("%s: %+v", what, x)
		}
	}
}

// TestDivide: whatever the prefix and the consents, the longest part around an
// address says what is asked for the address itself.
func TestDivide(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	bases := ipguard.NodeLocal()
	near := func() netip.Addr { // an address in or near a node-local prefix
		p := bases[r.IntN(len(bases))]
		b := p.Addr().AsSlice()
		for range r.IntN(3) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		b[len(b)-1] = byte(r.IntN(256))
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	refused := 0
	for range 3000 {
		var list []AllowedEndpoint
		for range r.IntN(4) {
			a := near()
			e := AllowedEndpoint{Prefix: netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()}
			if r.IntN(2) == 0 {
				e = AllowedEndpoint{Prefix: netip.PrefixFrom(a, a.BitLen()), Port: uint16(80 + r.IntN(2))}
			}
			list = append(list, e)
		}
		c := NewConsent(list)
		a := near()
		p := netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
		open, shut := c.Divide(p, 80)
		literal := c.Literal(p, []Port{{Number: 80}})
		for range 20 {
			b := near()
			if !p.Contains(b) {
				continue
			}
			best, is := -1, false
			for _, o := range open {
				if o.Contains(b) && o.Bits() > best {
					best, is = o.Bits(), true
				}
			}
			for _, o := range shut {
				if o.Contains(b) && o.Bits() > best {
					best, is = o.Bits(), false
				}
			}
			want := c.Address(b, 80)
			if is != want || slices.ContainsFunc(literal, func(l netip.Prefix) bool { return l.Contains(b) }) != want {
				t.Fatalf("%v of %v with %v: %t, want %t; open %v, refused %v, literal %v", b, p, list, is, want, open, shut, literal)
			}
			if !want {
				refused++
			}
		}
	}
	if refused < 100 {
		t.Errorf("%d refused only", refused)
	}
}
