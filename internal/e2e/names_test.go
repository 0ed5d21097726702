// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// TestNameProof: a name opens only what was answered for it, and only to who
// asks for that name.
func TestNameProof(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	n.learn(t, world.GoogleAPIs)
	for _, google := range []string{n.GoogleAPIs.V4.String(), n.GoogleAPIs.V6.String()} {
		t.Run(google, func(t *testing.T) { nameProof(t, n, google) })
	}
	t.Run("stranger's address", func(t *testing.T) {
		n.noWire(t, func() {
			for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
				if p := n.probe(t, n.in, "tls", hostPort(addr, 443), world.GoogleAPIs, n.CAFile()); p.Errno != syscall.ECONNREFUSED {
					t.Errorf("an allowed name at %s: %+v, want ECONNREFUSED", addr, p)
				}
			}
		}, world.StrangerV4, world.StrangerV6)
	})
}

func nameProof(t *testing.T, n *node, google string) {
	ca, tls, web := n.CAFile(), hostPort(google, 443), hostPort(google, 80)
	for _, split := range []string{"0", "1", "100"} {
		args := []string{"tls", tls, world.GoogleAPIs, ca}
		if split != "0" {
			args = append(args, split)
		}
		if p := n.probe(t, n.in, args...); p.Status != 200 || p.Peer != tls {
			t.Errorf("the right name, hello in pieces of %s: %+v", split, p)
		}
	}
	refused := []struct {
		name   string
		addr   string
		stdin  string
		args   []string
		reason policy.Reason
	}{
		{"stranger's SNI", tls, "", []string{"tls", tls, world.Stranger, ca}, policy.ReasonName},
		{"SNI of another site", tls, "", []string{"tls", tls, world.API, ca}, policy.ReasonName},
		{"no SNI", tls, "", []string{"tls", tls, "", ca}, policy.ReasonNoName},
		{"garbage", tls, strings.Repeat("\x00\xff\x01garbage", 100), nil, policy.ReasonNotTLS},
		{"plain HTTP on 443", tls, request(world.GoogleAPIs), nil, policy.ReasonNotTLS},
		{"ssh on 80", web, "SSH-2.0-OpenSSH_9.2\r\n", nil, policy.ReasonNotHTTP},
		{"TLS on 80", web, "", []string{"tls", web, world.GoogleAPIs, ca}, policy.ReasonNotHTTP},
	}
	for _, tt := range refused {
		conns, hits := n.GoogleAPIs.Conns(), n.GoogleAPIs.Hits()
		args := tt.args
		if args == nil {
			args = []string{"send", tt.addr}
		}
		p := n.probeWith(t, n.in, strings.NewReader(tt.stdin), args...)
		// The kernel ends a socket of its own with ECONNABORTED.
		if (p.Errno != syscall.ECONNRESET && p.Errno != syscall.ECONNABORTED) || p.Text != "" || p.Status != 0 {
			t.Errorf("%s: %+v, want a reset", tt.name, p)
		}
		// TLS goes straight to the site, where its connection is reset as
		// well; plain text goes no farther than the proxy.
		if got := n.GoogleAPIs.Conns() - conns; tt.addr == web && got != 0 {
			t.Errorf("%s: %d connections reached the site", tt.name, got)
		}
		if got := n.GoogleAPIs.Hits() - hits; got != 0 {
			t.Errorf("%s: %d requests reached the site", tt.name, got)
		}
		n.event(t, fmt.Sprintf("%s: %s", tt.name, tt.reason), func(e flow.Event) bool {
			return !e.Allowed && e.Reason == tt.reason && e.Dst.String() == tt.addr
		})
		// The twin: whoever is not captured talks to the site, whatever it
		// thinks of what it hears.
		conns = n.GoogleAPIs.Conns()
		n.probeWith(t, nil, strings.NewReader(tt.stdin), args...)
		// The site may only now accept the connection of before.
		if got := n.GoogleAPIs.Conns() - conns; got < 1 {
			t.Errorf("%s, uncaptured: no connection reached the site", tt.name)
		}
	}
	hits := n.GoogleAPIs.Hits()
	p := n.probeWith(t, n.in, strings.NewReader(last(world.Stranger)), "send", web)
	if !strings.HasPrefix(p.Text, "HTTP/1.1 502 ") || n.GoogleAPIs.Hits() != hits {
		t.Errorf("stranger's Host: %+v, %d requests at the site", p, n.GoogleAPIs.Hits()-hits)
	}
	p = n.probeWith(t, n.in, strings.NewReader(request(world.GoogleAPIs)+last(world.Stranger)), "send", web)
	if !strings.HasPrefix(p.Text, "HTTP/1.1 200 ") || strings.Count(p.Text, "HTTP/1.1 502 ") != 1 || n.GoogleAPIs.Hits() != hits+1 {
		t.Errorf("stranger's Host on a connection that was good: %+v, %d requests at the site", p, n.GoogleAPIs.Hits()-hits)
	}
	hits = n.GoogleAPIs.Hits()
	p = n.probeWith(t, nil, strings.NewReader(request(world.GoogleAPIs)+last(world.Stranger)), "send", web)
	if strings.Count(p.Text, "HTTP/1.1 200 ") != 2 || n.GoogleAPIs.Hits() != hits+2 {
		t.Errorf("the same, uncaptured: %+v", p)
	}
}

// request is a GET that keeps the connection, last one that does not.
func request(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

func last(host string) string {
	return "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
}

// TestWildcard: a wildcard with resolution NONE opens what DNS answers for
// the names below it, also by way of aliases.
func TestWildcard(t *testing.T) {
	t.Parallel()
	config := `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: example
spec:
  hosts: ["*.example.com"]
  ports: [{number: 443, name: https, protocol: HTTPS}]
  resolution: NONE
`
	n := start(t, map[string]string{"policy.yaml": config}, func(w *world.World) {
		w.DNS.SetCNAME("shop.example.com", 60e9, "edge.cdn.example")
		w.DNS.SetCNAME("edge.cdn.example", 60e9, "pop3.cdn.example")
		w.DNS.SetA("pop3.cdn.example", 60e9, w.API2.V4)
		w.DNS.SetAAAA("pop3.cdn.example", 60e9)
	})
	ca := n.CAFile()
	api, shop := hostPort(n.API.V4.String(), 443), hostPort(n.API2.V4.String(), 443)
	for _, addr := range []string{api, shop} {
		if p := n.probe(t, n.in, "dial", addr); p.Errno != syscall.ECONNREFUSED {
			t.Errorf("%s before any answer named it: %+v", addr, p)
		}
	}
	for _, family := range []string{"-4", "-6"} {
		if a := n.curl(t, n.in, family, "https://"+world.API+"/"); a.status != 200 {
			t.Errorf("%s: %+v", family, a)
		}
	}
	// The certificate is api2's; that the hello passed is what counts.
	conns := n.API2.Conns()
	if a := n.curl(t, n.in, "-k", "https://shop.example.com/"); a.status != 200 || n.API2.Conns() != conns+1 {
		t.Errorf("through aliases: %+v", a)
	}
	// The address of one name does not open the other's.
	if p := n.probe(t, n.in, "tls", shop, "other.example.org", ca); p.Errno != syscall.ECONNABORTED {
		t.Errorf("a name outside the wildcard: %+v", p)
	}
	for _, name := range []string{"example.com", "edge.cdn.example", world.Stranger} {
		if p := n.probe(t, n.in, "dns", "udp", hostPort(world.ResolverV4, 53), name, "A"); p.Rcode != "NXDOMAIN" || p.EDE != 15 {
			t.Errorf("%s: %+v, want NXDOMAIN, blocked", name, p)
		}
	}
	if a := n.curl(t, n.in, "http://"+world.API+"/"); a.exit != curlConnect {
		t.Errorf("port 80: %+v", a)
	}
}
