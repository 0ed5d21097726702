// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"io"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/world"
)

// bad are addresses that no answer may name; each is an attack by an answer
// and one by a literal.
var bad = []struct{ what, addr string }{
	{"loopback", "127.0.0.1"},
	{"unspecified", "0.0.0.0"},
	{"metadata service", "169.254.169.254"},
	{"metadata service", "168.63.129.16"},
	{"metadata service", "fd00:ec2::254"},
	{"loopback", "::1"},
	{"IPv4-mapped", "::ffff:169.254.169.254"},
	{"NAT64 of the metadata service", "64:ff9b::a9fe:a9fe"},
	{"NAT64 of the node itself", "64:ff9b::c633:640a"},
	{"NAT64 of 10.1.2.3, a private address", "64:ff9b::a01:203"},
	{"local NAT64 of the metadata service", "64:ff9b:1::a9fe:a9fe"},
	{"local NAT64 of the metadata service, prefix of 48 bits", "64:ff9b:1:a9fe:a9:fe00::"},
	{"6to4 of loopback", "2002:7f00:1::"},
	{"Teredo", "2001:0:a9fe:a9fe::1"},
	{"the node itself", world.NodeV4},
}

// literals are dialled by address; loopback and mapped addresses have rows of their own.
var literals = []struct{ what, addr string }{
	{"metadata service", "169.254.169.254"},
	{"metadata service", "168.63.129.16"},
	{"metadata service", "fd00:ec2::254"},
	{"NAT64 of the stranger", "64:ff9b::cb00:7142"},
	{"6to4 of the stranger", "2002:cb00:7142::1"},
	{"Teredo", "2001:0:cb00:7142::1"},
	{"private network", "10.1.2.3"},
	{"carrier's network", "100.64.0.1"},
	{"IPv4-compatible IPv6", "::203.0.113.66"},
}

// answerRows are what the DNS says, and what that opens.
var answerRows = makeAnswers()

func makeAnswers() []row {
	var rows []row
	for i, b := range bad {
		name := "r" + n(i) + ".wild.example"
		kind := "A"
		if addr(b.addr).Is6() {
			kind = "AAAA"
		}
		rows = append(rows, row{
			attack: "DNS rebinding", how: b.what + ": " + b.addr, want: "NOERROR", by: byDNS,
			do: rebind(name, kind, b.addr), seen: has(b.addr),
		})
	}
	rows = append(rows,
		row{attack: "DNS rebinding", how: "loopback for a host that is named exactly", want: "NOERROR", by: byDNS, do: rebind("rebind.example", "A", "127.0.0.1"), seen: has("127.")},
		row{attack: "DNS rebinding", how: "10.1.2.3 for a name under a wildcard", want: "NOERROR", by: byDNS, do: rebind("private.wild.example", "A", "10.1.2.3"), seen: has("10.")},
		row{attack: "DNS rebinding", how: "fd12::1 for a name under a wildcard", want: "NOERROR", by: byDNS, do: rebind("private6.wild.example", "AAAA", "fd12::1"), seen: has("fd12")},
		row{attack: "alias", how: "allowed name -> stranger's address: the stranger's SNI there", want: cutResult, by: byHello, do: names("learn_and", "{R4}", "alias.wild.example", "names", "https", "203.0.113.77", "443", "b.cdn.example", "b.cdn.example"), proof: func(a *arena) int { return a.aliased.Hits() }},
		row{attack: "alias", how: "the stranger's name -> an allowed name", want: "REFUSED", by: byDNS, do: ask("udp", "{R4}", "53", "alias.stranger.example"), proof: asked("alias.stranger")},
		row{attack: "ech in HTTPS records", how: "keys for a hidden name", want: "NOERROR, no ech", by: byDNS, do: ask("udp", "{R4}", "53", "hidden.wild.example", "HTTPS"), seen: has(", ech")},
		row{attack: "private parameter in HTTPS records", how: "text under an allowed wildcard", want: "NOERROR, no ech", by: byDNS, do: ask("udp", "{R4}", "53", "parameter.wild.example", "HTTPS"), seen: has("private")},
		row{attack: "the node gets an address", how: "IPv4: an allowed name has it", want: "NOERROR", by: byDNS, do: given("198.51.100.99", "A"), seen: has("198.51.100.99")},
		row{attack: "the node gets an address", how: "IPv6: an allowed name has it", want: "NOERROR", by: byDNS, do: given("2001:db8:51::99", "AAAA"), seen: has("2001:db8:51::99")},
		row{attack: "name flood", how: "1,100 names on another site's address; then another workload of the same policy asks", want: "NOERROR, 151.101.2.2; NOERROR, 151.101.2.2", by: "DNS proxy: names are counted by workload, exact hosts apart from wildcards", do: nameFlood, seen: has("SERVFAIL"), noTwin: "nothing is counted"},
		row{attack: "answer flood", how: "2,000 A records, TTL 0, then the stranger", want: "ECONNREFUSED", by: byConnect, do: names("learn_and", "{R4}", "flood.example", "ways", "connect", "{A4}", "443")},
		row{attack: "answer flood", how: "2,000 A records over TCP", want: "SERVFAIL", by: "DNS proxy: bounded, withheld", do: ask("tcp", "{R4}", "53", "flood.example"), seen: has("some addresses")},
	)
	for _, l := range literals {
		rows = append(rows, row{
			attack: "address literal", how: l.what + ": " + l.addr, want: "ECONNREFUSED", by: byConnect,
			do: ways("knock", l.addr, "443"), proof: wire(l.addr),
		})
	}
	return rows
}

// rebind lets a name have an address, and asks for it.
func rebind(name, kind, address string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		if kind == "A" {
			a.DNS.SetA(name, time.Minute, addr(address))
		} else {
			a.DNS.SetAAAA(name, time.Minute, addr(address))
		}
		return ask("udp", "{R4}", "53", name, kind)(a, cg)
	}
}

// given asks for a name whose address the node has just got.
func given(address, kind string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		a.must(a.GiveNode(addr(address)))
		defer func() { a.must(a.TakeFromNode(addr(address))) }()
		question := rebind("given.wild.example", kind, address)
		got := question(a, cg)
		// The node is told a moment later.
		for deadline := time.Now().Add(soon); cg != nil && strings.Contains(got, address) && time.Now().Before(deadline); {
			got = question(a, cg)
		}
		return got
	}
}

// nameFlood lets the attacker ask for more names on one address than an
// address has, and then another workload of the same policy for a host that is
// named exactly and for a new name under the wildcard.
func nameFlood(a *arena, cg *world.Cgroup) string {
	if got := names("many", "{R4}", "1100", "many.wild.example")(a, cg); !strings.HasSuffix(got, " of 1100") || strings.HasPrefix(got, "0 ") {
		return "the flood: " + got
	}
	victim, err := a.d.Root.Child("victim")
	a.must(err)
	defer func() { a.must(victim.Close()) }()
	return ask("udp", "{R4}", "53", "fresh.example")(a, victim) + "; " + ask("udp", "{R4}", "53", "fresh.wild.example")(a, victim)
}

// forward is a process on the node that passes connections on and is not
// captured: this one.
func (a *arena) forward(from, to netip.AddrPort) error {
	ln, err := a.Node.Listen(from)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	a.t.Cleanup(func() {
		_ = ln.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return // closed
			}
			out, err := a.Node.Dial(context.Background(), "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			serving.Go(func() {
				_, _ = io.Copy(out, in)
				_ = out.Close()
			})
			serving.Go(func() {
				_, _ = io.Copy(in, out)
				_ = in.Close()
			})
		}
	})
	return nil
}

// populate adds to the internet what the rows need.
func (a *arena) populate() {
	var err error
	a.shared, err = a.AddOrigin(world.OriginConfig{Names: []string{"a.cdn.example", "b.cdn.example"}, V4: addr("151.101.1.1")})
	a.must(err)
	a.aliased, err = a.AddOrigin(world.OriginConfig{Names: []string{"c.cdn.example"}, V4: addr("203.0.113.77")})
	a.must(err)
	a.free, err = a.AddOrigin(world.OriginConfig{Names: []string{"free.example"}, V4: addr("203.0.113.88"), V6: addr("2001:db8:bad::88")})
	a.must(err)
	_, err = a.AddUDP(netip.AddrPortFrom(a.free.V4, 443))
	a.must(err)
	a.tls, err = a.AddTCP(netip.MustParseAddrPort("151.101.2.2:443"), "")
	a.must(err)
	_, err = a.AddTCP(netip.AddrPortFrom(a.API2.V4, 7), "")
	a.must(err)
	_, err = a.AddUDP(netip.AddrPortFrom(a.API2.V4, 7))
	a.must(err)
	a.must(a.forward(netip.MustParseAddrPort("127.0.0.1:8118"), netip.MustParseAddrPort(world.StrangerV4+":80")))
	a.DNS.SetA("theirs.example", time.Minute, addr(world.StrangerV4))
	a.DNS.SetA("tls.example", time.Minute, addr("151.101.2.2"))
	a.DNS.SetAAAA("tls.example", time.Minute)
	a.DNS.SetCNAME("alias.wild.example", time.Minute, "c.cdn.example")
	a.DNS.SetCNAME("alias.stranger.example", time.Minute, world.GoogleAPIs)
	a.must(a.DNS.Set("hidden.wild.example. 60 IN HTTPS 1 . alpn=h2 ech=RUNIU0VDUkVU"))
	a.must(a.DNS.Set("parameter.wild.example. 60 IN HTTPS 1 . alpn=h2 key65400=PRIVATESECRET"))
	a.DNS.SetCNAME("told.wild.example", time.Minute, "secret.c.cdn.example")
	a.DNS.SetA("secret.c.cdn.example", time.Minute, addr("203.0.113.77"))
	a.DNS.SetAAAA("numbers.wild.example", time.Minute, addr("2a00:5345:4352:4554::1"))
	for i := range 1100 {
		a.DNS.SetA("n"+n(i)+".many.wild.example", time.Minute, addr("151.101.2.2"))
	}
	a.DNS.SetA("fresh.wild.example", time.Minute, addr("151.101.2.2"))
	a.DNS.SetA("fresh.example", time.Minute, addr("151.101.2.2"))
	var flood []netip.Addr
	for i := range 2000 {
		flood = append(flood, netip.AddrFrom4([4]byte{151, 102, byte(i >> 8), byte(i)}))
	}
	a.DNS.SetA("flood.example", 0, flood...)
	a.DNS.SetAAAA("flood.example", 0)
	// Fast Open with data in the first SYN, without a cookie.
	a.must(a.Node.Do(func() error { return sysctl("net/ipv4/tcp_fastopen", "5") }))
	a.must(a.Net.Do(func() error { return sysctl("net/ipv4/tcp_fastopen", "1538") }))
	// ping sockets for everybody, as distributions have it.
	a.must(a.Node.Do(func() error { return sysctl("net/ipv4/ping_group_range", "0 2147483647") }))
}
