// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// TestNodeGetsAddress: an address that the node gets while egressd runs is its
// own from then on: no answer names it, what was learned is closed, who dials it
// is at the node, and egressd does not dial it. When the node loses it, all is as before.
func TestNodeGetsAddress(t *testing.T) {
	t.Parallel()
	config := `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: moved
spec:
  hosts: [moved.example, dialled.example]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: front
spec:
  hosts: [front.example]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: front
spec:
  hosts: [front.example]
  http: [{route: [{destination: {host: dialled.example, port: {number: 80}}}]}]
`
	v4, v6 := netip.MustParseAddr("198.18.7.7"), netip.MustParseAddr("2001:db8:7::7")
	var site, front *world.Origin
	n := start(t, map[string]string{"policy.yaml": config}, func(w *world.World) {
		var err error
		if site, err = w.AddOrigin(world.OriginConfig{Names: []string{"moved.example", "dialled.example"}, V4: v4, V6: v6}); err != nil {
			t.Fatal(err)
		}
		if front, err = w.AddOrigin(world.OriginConfig{Names: []string{"front.example"}, V4: netip.MustParseAddr("198.18.7.8"), V6: netip.MustParseAddr("2001:db8:7::8")}); err != nil {
			t.Fatal(err)
		}
	})
	works := func(when string) {
		t.Helper()
		for _, family := range []string{"-4", "-6"} {
			for _, url := range []string{"http://moved.example/", "https://moved.example/", "http://front.example/"} {
				if a := n.curl(t, n.in, family, url); a.status != 200 {
					t.Errorf("%s, %s %s: %+v", when, family, url, a)
				}
			}
		}
	}
	works("before")
	hits := site.Hits()

	if err := n.GiveNode(v4, v6); err != nil {
		t.Fatal(err)
	}
	var reached atomic.Int64
	var serving sync.WaitGroup
	var listeners []net.Listener
	for _, a := range []netip.Addr{v4, v6} {
		for _, port := range []uint16{80, 443} {
			ln, err := n.Node.Listen(netip.AddrPortFrom(a, port))
			if err != nil {
				t.Fatal(err)
			}
			listeners = append(listeners, ln)
			serving.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					reached.Add(1)
					_ = c.Close()
				}
			})
		}
	}
	resolver := hostPort(world.ResolverV4, 53)
	eventually(t, soon, "no answer names the address", func() bool {
		return len(n.probe(t, n.in, "dns", "udp", resolver, "moved.example", "A").Addrs) == 0 &&
			len(n.probe(t, n.in, "dns", "udp", resolver, "moved.example", "AAAA").Addrs) == 0
	})
	// It is the node's now, as loopback is, and not the site's.
	for _, addr := range []string{v4.String(), v6.String()} {
		for _, port := range []uint16{80, 443} {
			eventually(t, soon, "the node itself: "+hostPort(addr, port), func() bool {
				before := reached.Load()
				return n.probe(t, n.in, "dial", hostPort(addr, port)).Error == "" && reached.Load() > before
			})
		}
	}
	// The address that is dialled is the front's; egressd's own dial is what
	// would come to the node.
	reached.Store(0)
	for _, family := range []string{"-4", "-6"} {
		if a := n.curl(t, n.in, family, "http://front.example/"); a.status != 503 && a.status != 502 {
			t.Errorf("%s by another name: %+v", family, a)
		}
	}
	if got := reached.Load(); got != 0 {
		t.Errorf("%d connections came to the node", got)
	}
	for _, family := range []string{"-4", "-6"} { // the twin
		n.curl(t, nil, family, "http://moved.example/")
	}
	if reached.Load() != 2 || site.Hits() != hits || front.Hits() != 0 {
		t.Errorf("uncaptured: %d connections to the node; the site has %d requests more", reached.Load(), site.Hits()-hits)
	}

	for _, ln := range listeners {
		_ = ln.Close()
	}
	serving.Wait()
	for _, a := range []netip.Addr{v4, v6} {
		if err := n.TakeFromNode(a); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, soon, "answers name the address again", func() bool {
		return len(n.probe(t, n.in, "dns", "udp", resolver, "moved.example", "A").Addrs) == 1 &&
			len(n.probe(t, n.in, "dns", "udp", resolver, "moved.example", "AAAA").Addrs) == 1
	})
	works("after")
}
