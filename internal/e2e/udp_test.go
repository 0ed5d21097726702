// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// udp is a ServiceEntry for UDP to a host.
func udp(name, host, port string) string {
	return `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + name + `}
spec:
  hosts: [` + host + `]
  ports: [{number: ` + port + `, name: udp, protocol: UDP}]
  resolution: DNS
---
`
}

// TestUDP: what is allowed for UDP is open for UDP, on its port, and for
// nothing else.
func TestUDP(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"udp.yaml": udp("udp", world.API, "7")}, nil)
	for _, s := range []*world.Server{n.EchoUDP, n.EchoUDP6} {
		addr := s.Addr.Addr().String()
		if p := n.probe(t, n.in, "udp", s.Addr.String(), "early"); p.Error == "" {
			t.Errorf("%s before any answer named it: %+v", addr, p)
		}
	}
	n.learn(t, world.API)
	n.noWire(t, func() {
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if p := n.probe(t, n.in, "udp", hostPort(addr, 443), "x"); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("stranger: %+v", p)
			}
		}
	}, world.StrangerV4, world.StrangerV6)
	for _, s := range []*world.Server{n.EchoUDP, n.EchoUDP6} {
		addr := s.Addr.Addr().String()
		if p := n.probe(t, n.in, "udp", s.Addr.String(), "hello"); p.Text != "hello" {
			t.Errorf("%s: %+v", addr, p)
		}
		n.noWire(t, func() {
			for _, port := range []uint16{8, 443} {
				if p := n.probe(t, n.in, "udp", hostPort(addr, port), "x"); p.Errno != syscall.EPERM && p.Errno != syscall.ECONNREFUSED {
					t.Errorf("%s port %d: %+v", addr, port, p)
				}
			}
			for _, port := range []uint16{7, 80, 443} {
				if p := n.probe(t, n.in, "dial", hostPort(addr, port)); p.Errno != syscall.ECONNREFUSED {
					t.Errorf("TCP to %s port %d: %+v, want ECONNREFUSED", addr, port, p)
				}
			}
		}, addr)
	}
	// The twins.
	if p := n.probe(t, nil, "udp", n.StrangerUDP.Addr.String(), "hello"); p.Text != "hello" {
		t.Errorf("uncaptured: %+v", p)
	}
	if p := n.probe(t, nil, "dial", n.Echo.Addr.String()); p.Error != "" {
		t.Errorf("uncaptured: %+v", p)
	}
}
