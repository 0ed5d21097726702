// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// TestBypass tries to reach the stranger without a plain connect(). What
// counts is the wire.
func TestBypass(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "python3")
	n := start(t, seed(t, "googleapis.yaml"), nil)
	args := []string{python(t), script(t, "client.py"), "bypass", world.StrangerV4, world.StrangerV6, world.ResolverV4}
	var r reply
	n.noWire(t, func() { r = n.scripted(t, n.in, args...) }, world.StrangerV4, world.StrangerV6)
	if len(r.Ways) < 15 {
		t.Fatalf("%+v", r)
	}
	for way, how := range r.Ways {
		if how == "sent" {
			t.Errorf("%s: sent", way)
		}
	}
	// The twin: they are ways when nobody looks. Kernels lack some.
	sent := 0
	for _, how := range n.scripted(t, nil, args...).Ways {
		if how == "sent" {
			sent++
		}
	}
	if sent < 10 {
		t.Errorf("uncaptured, only %d ways work", sent)
	}
}

// TestOwnPorts: egressd's listeners are no way out, and no way to free oneself.
func TestOwnPorts(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	n.learn(t, world.GoogleAPIs)
	for _, addr := range []string{"127.0.0.1:15001", "[::1]:15001"} {
		hits := n.GoogleAPIs.Hits()
		if p := n.probeWith(t, n.in, strings.NewReader(last(world.GoogleAPIs)), "send", addr); p.Error == "" || p.Text != "" || n.GoogleAPIs.Hits() != hits {
			t.Errorf("%s: %+v", addr, p)
		}
	}
	for _, network := range []string{"udp", "tcp"} {
		if p := n.probe(t, n.in, "dns", network, "127.0.0.1:15053", world.GoogleAPIs, "A"); p.Rcode == "NOERROR" {
			t.Errorf("DNS over %s at egressd's own port: %+v", network, p)
		}
	}
	for _, url := range []string{"http://127.0.0.1:15000/unload", "http://127.0.0.1:15020/unload", "http://127.0.0.1:15021/unload"} {
		for _, method := range []string{"POST", "GET", "PUT"} {
			if a := n.curl(t, n.in, "-X", method, url); a.status < 400 && a.exit == 0 {
				t.Errorf("%s %s: %+v", method, url, a)
			}
		}
	}
	if p := n.probe(t, n.in, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("after asking for freedom: %+v", p)
	}
	// What the ports are for.
	for _, tt := range []struct{ url, want string }{
		{"http://127.0.0.1:15021/healthz/ready", "ready"},
		{"http://127.0.0.1:15020/healthz/ready", "ready"},
		{"http://127.0.0.1:15020/metrics", "egressd_"},
		{"http://127.0.0.1:15020/stats/prometheus", "egressd_"},
	} {
		if a := n.curl(t, nil, tt.url); a.status != 200 || !strings.Contains(a.body, tt.want) {
			t.Errorf("%s: %+v", tt.url, a)
		}
	}
}
