// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// servfail is the response code SERVFAIL (RFC 1035, section 4.1.1), staleAnswer
// the extended error Stale Answer (RFC 8914, section 4.4).
const servfail, staleAnswer = 2, 3

// failing is the policy for hosts whose servers fail: one goes by the proxy, one
// straight to its address.
const failing = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: shop
spec:
  hosts: [shop.example]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: wild
spec:
  hosts: ["*.wild.example"]
  ports: [{number: 80, name: http, protocol: HTTP}]
`

var shopV4, shopV6 = netip.MustParseAddr("198.18.7.7"), netip.MustParseAddr("2001:db8:7::7")

// withShop adds shop.example to a world.
func withShop(t *testing.T, ttl time.Duration) func(*world.World) {
	return func(w *world.World) {
		if _, err := w.AddOrigin(world.OriginConfig{Names: []string{"shop.example"}, V4: shopV4, V6: shopV6}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"shop.example", "a.wild.example"} {
			w.DNS.SetA(name, ttl, shopV4)
			w.DNS.SetAAAA(name, ttl, shopV6)
		}
	}
}

// TestFirstServerIsDead: of two servers the first is silent. Every program is
// served within a second, from the first question on, over both families, and
// the daemon says which server it is.
func TestFirstServerIsDead(t *testing.T) {
	t.Parallel()
	dead := netip.AddrPortFrom(shopV4, 53)
	n := start(t, map[string]string{"policy.yaml": failing}, func(w *world.World) {
		withShop(t, time.Minute)(w)
		pc, err := w.Net.ListenPacket(dead) // takes questions and says nothing
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pc.Close() })
	}, "--dns-server", dead.String(), "--dns-server", world.ResolverV4)
	first := stopwatch()
	a := n.probe(t, n.in, "dns", "udp", hostPort(world.ResolverV6, 53), "shop.example", "A")
	if took := first(); len(a.Addrs) != 1 || took > 2*time.Second { // the probe's start is in it
		t.Errorf("the first question: %+v after %s", a, took)
	}
	for range 5 {
		for _, family := range []string{"-4", "-6"} {
			if a := n.curl(t, n.in, family, "--max-time", "3", "http://shop.example/"); a.status != 200 {
				t.Errorf("%s: %+v", family, a)
			}
		}
	}
	down := dead.String()
	eventually(t, soon, "the metrics say it", func() bool {
		n.probe(t, n.in, "dns", "udp", hostPort(world.ResolverV6, 53), "shop.example", "A") // not a trusted one: the first is asked
		body := n.curl(t, nil, "http://127.0.0.1:15020/metrics").body
		return strings.Contains(body, `egressd_dns_server_up{server="`+down+`"} 0`) &&
			strings.Contains(body, `egressd_dns_server_up{server="`+world.ResolverV4+`:53"} 1`)
	})
	if e := n.egressd(t, "status"); !strings.Contains(e.stdout, "DNS SERVER DOWN") || !strings.Contains(e.stdout, down) ||
		!strings.Contains(e.stdout, "1 of 2 DNS servers do not answer") || !strings.Contains(e.stdout, "ready: true") {
		t.Errorf("status: %s", e.stdout)
	}
	if log := n.d.Log(); strings.Count(log, "a DNS server does not answer") != 1 {
		t.Error("the log does not have it once")
	}
}

// TestLocalResolverHangs: the node's own forwarder hangs, captured or not.
// Programs go on by the other server, and by the forwarder again when it is back.
func TestLocalResolverHangs(t *testing.T) {
	t.Parallel()
	for _, r := range resolvers {
		for _, captured := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, captured %v", r.name, captured), func(t *testing.T) {
				t.Parallel()
				testenv.RequireTool(t, r.name)
				n := start(t, map[string]string{"policy.yaml": failing}, withShop(t, time.Second),
					"--dns-server", "127.0.0.1", "--dns-server", world.ResolverV4)
				cg := n.in
				if !captured {
					cg = nil
				}
				forwarder := r.runs(t, n, cg, "127.0.0.1", "::1", world.OtherResolverV4)
				ask := func() probed {
					return n.probe(t, n.in, "dns", "udp", "127.0.0.1:53", "shop.example", "A")
				}
				forwarded := func() (n1, n2 int) {
					for _, q := range n.DNS.Queries() {
						switch q.Server.Addr().String() {
						case world.ResolverV4:
							n1++
						case world.OtherResolverV4:
							n2++
						}
					}
					return n1, n2
				}
				eventually(t, soon, "the forwarder is asked", func() bool {
					a := ask()
					_, n2 := forwarded()
					return len(a.Addrs) == 1 && n2 > 0
				})
				if err := forwarder.Signal(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				eventually(t, 2*soon, "it is known to be down", func() bool {
					if a := ask(); len(a.Addrs) != 1 || a.EDE >= 0 {
						t.Fatalf("while the forwarder hangs: %+v", a)
					}
					return strings.Contains(n.d.Log(), "a DNS server does not answer")
				})
				before, _ := forwarded()
				if a := ask(); len(a.Addrs) != 1 {
					t.Errorf("when that is known: %+v", a)
				}
				if after, _ := forwarded(); after == before {
					t.Error("the other server was not asked")
				}
				if err := forwarder.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				eventually(t, 4*soon, "it is back", func() bool {
					return len(ask().Addrs) == 1 && strings.Contains(n.d.Log(), "a DNS server answers again")
				})
			})
		}
	}
}

// TestServersFail: while no server has an answer, a host that is named exactly
// has its last one, and connections to its addresses pass, by the proxy and
// straight; a name that only a wildcard allows does not.
func TestServersFail(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"policy.yaml": failing}, withShop(t, time.Second),
		"--dns-min-ttl", "1s", "--dns-grace", "1s")
	resolver := hostPort(world.ResolverV4, 53)
	ask := func(name, qtype string) probed { return n.probe(t, n.in, "dns", "udp", resolver, name, qtype) }
	works := func(when string) {
		t.Helper()
		for _, family := range []string{"-4", "-6"} {
			for _, url := range []string{"http://shop.example/", "https://shop.example/"} {
				if a := n.curl(t, n.in, family, url); a.status != 200 {
					t.Errorf("%s, %s %s: %+v", when, family, url, a)
				}
			}
		}
	}
	works("before")
	if a := ask("a.wild.example", "A"); len(a.Addrs) != 1 {
		t.Fatalf("before: %+v", a)
	}
	for _, name := range []string{"shop.example", "a.wild.example"} {
		n.DNS.Fail(name, servfail)
	}
	eventually(t, soon, "the old answer is given", func() bool {
		return ask("shop.example", "A").EDE == staleAnswer &&
			ask("shop.example", "AAAA").EDE == staleAnswer
	})
	works("while no server has an answer")
	if a := ask("a.wild.example", "A"); len(a.Addrs) != 0 || a.Rcode != "SERVFAIL" {
		t.Errorf("a name under a wildcard: %+v", a)
	}
	if s := n.status(t); s.DNS["stale"] == 0 || !s.Ready {
		t.Errorf("status: ready %v, stale %d", s.Ready, s.DNS["stale"])
	}
	// A name that the policy no longer has is denied, whatever was answered.
	n.write(t, "policy.yaml", strings.ReplaceAll(failing, "shop.example", "other.example"))
	eventually(t, soon, "the name is denied", func() bool { return ask("shop.example", "A").Rcode == "NXDOMAIN" })
	if a := n.curl(t, n.in, "http://shop.example/"); a.status != 0 {
		t.Errorf("a name that was removed: %+v", a)
	}
}

// TestResolvConfChanges: the node's servers are those of its resolv.conf as it
// is now.
func TestResolvConfChanges(t *testing.T) {
	t.Parallel()
	dead := shopV4
	n := prepare(t, map[string]string{"policy.yaml": failing}, func(w *world.World) {
		withShop(t, time.Minute)(w)
		pc, err := w.Net.ListenPacket(netip.AddrPortFrom(dead, 53))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pc.Close() })
	}, "--dns-timeout", "200ms")
	conf := filepath.Join(n.Dir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+dead.String()+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.d.NodeDNS = true
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask := func() probed {
		return n.probe(t, n.in, "dns", "udp", net.JoinHostPort(world.ResolverV4, "53"), "shop.example", "A")
	}
	if a := ask(); len(a.Addrs) != 0 {
		t.Fatalf("a server that is silent: %+v\n%s", a, n.egressd(t, "status").stdout)
	}
	if err := os.WriteFile(conf, []byte("nameserver "+world.ResolverV6+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the new server is asked", func() bool { return len(ask().Addrs) == 1 })
	if err := os.WriteFile(conf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "an empty file is warned of", func() bool { return strings.Contains(n.d.Log(), "the servers from before are asked") })
	if a := ask(); len(a.Addrs) != 1 {
		t.Errorf("after an empty file: %+v", a)
	}
}
