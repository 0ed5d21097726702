// SPDX-License-Identifier: Apache-2.0

package ipguard

import (
	"net/netip"
	"testing"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		class  Class
		v4, v6 []string
	}{
		{Public,
			[]string{"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
				"128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.2.1", "198.18.0.1",
				"198.51.100.7", "203.0.113.9", "223.255.255.255", "168.63.129.17"},
			[]string{"2606:4700:4700::1111", "2001:db8::1", "2001:4860:4860::8888", "2003::1", "3fff::1", "2001:1::1"}},
		{Private,
			[]string{"10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.1"},
			[]string{"fc00::1", "fd12:3456::1", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}},
		{Loopback, []string{"127.0.0.1", "127.255.255.255"}, []string{"::1"}},
		{LinkLocal, []string{"169.254.0.0", "169.254.169.254", "169.254.255.255"}, []string{"fe80::1", "febf::1", "fec0::1"}},
		{Metadata, []string{"168.63.129.16", "100.100.100.200", "192.0.0.192"}, []string{"fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe"}},
		{Unspecified, []string{"0.0.0.0", "0.1.2.3", "0.255.255.255"}, []string{"::"}},
		{Multicast, []string{"224.0.0.1", "239.255.255.255"}, []string{"ff02::1", "ff0e::1"}},
		{Reserved, []string{"240.0.0.0", "255.255.255.255", "192.0.0.1", "192.88.99.1"}, []string{"100::1", "4000::1", "1::", "e000::1"}},
		{Embedded, nil, []string{"::ffff:1.1.1.1", "::ffff:127.0.0.1", "::ffff:0:1.1.1.1", "::2", "::7f00:1",
			"2002:7f00:1::", "2001::1", "2001:0:4136:e378::1",
			"2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:10.0.0.1", "fd00::5efe:7f00:1"}},
		{Invalid, nil, []string{"fe80::1%eth0", "2606:4700::1%eth0"}},
	}
	for _, tt := range tests {
		for _, s := range append(append([]string(nil), tt.v4...), tt.v6...) {
			if got := Classify(netip.MustParseAddr(s)); got != tt.class {
				t.Errorf("Classify(%s) = %s, want %s", s, got, tt.class)
			}
		}
	}
	if got := Classify(netip.Addr{}); got != Invalid {
		t.Errorf("Classify(zero) = %s, want invalid", got)
	}
}

func TestCheck(t *testing.T) {
	own := []netip.Addr{
		netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("::ffff:10.9.8.7"),
		netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("fe80::5%eth0"),
	}
	def := New(own)
	lit := func(s ...string) (p []netip.Prefix) {
		for _, x := range s {
			p = append(p, netip.MustParsePrefix(x))
		}
		return p
	}
	tests := []struct {
		name string
		g    Guard
		addr [2]string // v4, v6
		o    Options
		ok   bool
		c    Class
	}{
		{"public", def, [2]string{"1.1.1.1", "2606:4700::1"}, Options{}, true, Public},
		{"private wildcard", def, [2]string{"10.0.0.1", "fd00::1"}, Options{}, false, Private},
		{"private exact", def, [2]string{"10.0.0.1", "fd00::1"}, Options{Exact: true}, true, Private},
		{"private wildcard allowed", def, [2]string{"10.0.0.1", "fd00::1"}, Options{AllowPrivate: true}, true, Private},
		{"strict exact", def.WithPrivate(PrivateNever), [2]string{"10.0.0.1", "fd00::1"}, Options{Exact: true}, false, Private},
		{"strict allowed", def.WithPrivate(PrivateNever), [2]string{"10.0.0.1", "fd00::1"}, Options{AllowPrivate: true}, true, Private},
		{"lax wildcard", def.WithPrivate(PrivateAlways), [2]string{"10.0.0.1", "fd00::1"}, Options{}, true, Private},
		{"lax loopback", def.WithPrivate(PrivateAlways), [2]string{"127.0.0.1", "::1"}, Options{Exact: true, AllowPrivate: true}, false, Loopback},
		{"own public", def, [2]string{"203.0.113.5", "2001:db8::5"}, Options{Exact: true}, false, Own},
		{"own private mapped", def, [2]string{"10.9.8.7", "2001:db8::5"}, Options{Exact: true, AllowPrivate: true}, false, Own},
		{"literal loopback", def, [2]string{"127.0.0.1", "::1"}, Options{Literal: lit("127.0.0.0/8", "::1/128")}, true, Loopback},
		{"literal own", def, [2]string{"203.0.113.5", "2001:db8::5"}, Options{Literal: lit("203.0.113.5/32", "2001:db8::/64")}, true, Own},
		{"literal of another", def, [2]string{"127.0.0.1", "::1"}, Options{Literal: lit("127.0.0.2/32", "::2/128")}, false, Loopback},
		{"metadata", def, [2]string{"168.63.129.16", "fd00:ec2::254"}, Options{Exact: true, AllowPrivate: true}, false, Metadata},
		{"zero guard", Guard{}, [2]string{"203.0.113.5", "2001:db8::5"}, Options{}, true, Public},
	}
	for _, tt := range tests {
		for _, s := range tt.addr {
			ok, c := tt.g.Check(netip.MustParseAddr(s), tt.o)
			if ok != tt.ok || c != tt.c {
				t.Errorf("%s: Check(%s) = %t, %s; want %t, %s", tt.name, s, ok, c, tt.ok, tt.c)
			}
		}
	}
	// A mapped address stays Embedded even where its inner address is literal.
	if ok, c := def.Check(netip.MustParseAddr("::ffff:127.0.0.1"), Options{Literal: lit("127.0.0.0/8")}); ok || c != Embedded {
		t.Errorf("mapped loopback = %t, %s; want refused as embedded", ok, c)
	}
}

// TestNAT64: an address of NAT64 is judged by the IPv4 address inside.
func TestNAT64(t *testing.T) {
	tests := []struct {
		addr string
		want Class
	}{
		{"64:ff9b::1.1.1.1", Public},
		{"64:ff9b::10.0.0.1", Private},
		{"64:ff9b::127.0.0.1", Loopback},
		{"64:ff9b::169.254.169.254", LinkLocal},
		{"64:ff9b::168.63.129.16", Metadata},
		{"64:ff9b::0.0.0.0", Unspecified},
		{"64:ff9b::224.0.0.1", Multicast},
		{"64:ff9b::255.255.255.255", Reserved},
		{"64:ff9b::203.0.113.5", Own},
		{"64:ff9b:0:0:1::1.1.1.1", Reserved}, // beside the prefix
		// The local prefix: where the address is depends on the translator.
		{"64:ff9b:1::1.1.1.1", Public},
		{"64:ff9b:1:fffe::1.1.1.1", Public},
		{"64:ff9b:1::10.0.0.1", Private},
		{"64:ff9b:1::127.0.0.1", Embedded},
		{"64:ff9b:1::169.254.169.254", Embedded},
		{"64:ff9b:1::203.0.113.5", Own},
		{"64:ff9b:1:808:8:800::", Public},            // /48: 8.8.8.8
		{"64:ff9b:1:a9fe:a9:fe00::", Embedded},       // /48: 169.254.169.254
		{"64:ff9b:1:a9fe:a9:fe00:101:101", Embedded}, // /48, and what it ignores is good
		{"64:ff9b:1:7f:0:1::", Embedded},             // /56: 127.0.0.1
		{"64:ff9b:1:0:a9:fea9:fe00:0", Embedded},     // /64: 169.254.169.254
		{"64:ff9b:1:0:a:0:100:0", Private},           // /64: 10.0.0.1
		{"64:ff9b:1:a00:0:100:101:101", Private},     // /48: 10.0.0.1, /96: 1.1.1.1
		{"64:ff9b:1:cb00:71:500::", Own},             // /48: 203.0.113.5
		{"64:ff9b:1::", Embedded},                    // nowhere
		{"64:ff9b:2::1.1.1.1", Reserved},             // beside the prefix
	}
	g := New([]netip.Addr{netip.MustParseAddr("203.0.113.5")})
	for _, tt := range tests {
		for _, o := range []Options{{}, {Exact: true}} {
			ok, c := g.Check(netip.MustParseAddr(tt.addr), o)
			if want := c == Public || c == Private && o.Exact; c != tt.want || ok != want {
				t.Errorf("%s, exact %v: %s, ok %v; want %s, %v", tt.addr, o.Exact, c, ok, tt.want, want)
			}
		}
	}
}

func FuzzCheck(f *testing.F) {
	for _, s := range []string{"1.1.1.1", "::1", "64:ff9b::7f00:1", "10.0.0.1"} {
		f.Add(netip.MustParseAddr(s).AsSlice(), true, false)
	}
	g := New([]netip.Addr{netip.MustParseAddr("203.0.113.5")})
	f.Fuzz(func(t *testing.T, b []byte, exact, allow bool) {
		a, _ := netip.AddrFromSlice(b)
		ok, c := g.Check(a, Options{Exact: exact, AllowPrivate: allow})
		if ok && c.Forbidden() {
			t.Errorf("%s is %s and was let through", a, c)
		}
		if c == Embedded && !a.Is6() {
			t.Errorf("%s: only IPv6 addresses embed others", a)
		}
	})
}

// TestOwnChanges: a Guard follows the node's addresses, in both directions.
func TestOwnChanges(t *testing.T) {
	own := new(Addresses)
	g := NewLive(own)
	prefixes := func(list ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range list {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	steps := []struct {
		own    []netip.Prefix
		more   bool
		mine   []string
		others []string
	}{
		{nil, false, nil, []string{"203.0.113.5", "2001:db8::5"}},
		{prefixes("203.0.113.5/32", "2001:db8::5/128"), true, []string{"203.0.113.5", "2001:db8::5"}, []string{"203.0.113.6", "2001:db8::6"}},
		{prefixes("203.0.113.5/32", "2001:db8::5/128"), false, []string{"203.0.113.5", "2001:db8::5"}, nil},
		{prefixes("203.0.113.5/32"), false, []string{"203.0.113.5"}, []string{"2001:db8::5"}},
		{prefixes("203.0.113.0/28", "2001:db8::/64"), true, []string{"203.0.113.5", "203.0.113.15", "2001:db8::99"}, []string{"203.0.113.16", "2001:db8:1::"}},
		{prefixes("203.0.113.7/32", "::ffff:198.51.100.1/128"), true, []string{"203.0.113.7", "198.51.100.1"}, []string{"203.0.113.5"}},
	}
	for i, s := range steps {
		if more := own.Set(s.own); more != s.more {
			t.Errorf("step %d: more = %v", i, more)
		}
		for _, a := range s.mine {
			if ok, c := g.Check(netip.MustParseAddr(a), Options{Exact: true, AllowPrivate: true}); ok || c != Own {
				t.Errorf("step %d: %s is %s, ok %v", i, a, c, ok)
			}
		}
		for _, a := range s.others {
			if ok, c := g.Check(netip.MustParseAddr(a), Options{}); !ok {
				t.Errorf("step %d: %s is refused as %s", i, a, c)
			}
		}
	}
}
