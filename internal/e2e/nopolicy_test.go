// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/world"
)

// TestNoPolicyDeniesEverything: --allow-empty-policy without files denies everything.
func TestNoPolicyDeniesEverything(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{}, nil, "--allow-empty-policy")
	n.noWire(t, func() {
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if p := n.probe(t, n.in, "dial", hostPort(addr, 443)); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("TCP to %s: %+v", addr, p)
			}
			if p := n.probe(t, n.in, "udp", hostPort(addr, 9), "x"); p.Errno != syscall.ECONNREFUSED {
				t.Errorf("UDP to %s: %+v", addr, p)
			}
		}
	}, world.StrangerV4, world.StrangerV6)
	for _, s := range []*world.Server{n.Echo, n.Echo6} {
		if p := n.probe(t, nil, "dial", s.Addr.String()); p.Error != "" {
			t.Errorf("without egressd: %+v", p)
		}
	}
}
