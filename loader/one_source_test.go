// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader/arrival"
	"github.com/egressd/egressd/policy"
)

// TestOneSourceTwoListeners: two connections that go to different places may have
// the same source, as the kernel gives it to them by chance, and as a workload may
// bring about. While both wait to be accepted, each is known as who it is.
func TestOneSourceTwoListeners(t *testing.T) {
	r := newRig(t)
	others := r.workload("others", 2)
	for i, addr := range []string{world.StrangerV4, world.StrangerV6} {
		t.Run(addr, func(t *testing.T) {
			r.allow(addr, 443, policy.TCP, policy.Proxy)
			at := netip.MustParseAddr(loopbacks[i])
			ports := r.ports
			proxy, dns := r.waiting(t, at, &ports.Proxy), r.waiting(t, at, &ports.DNSTCP)
			must(t, r.dp.SetListeners(ports))
			defer func() { must(t, r.dp.SetListeners(r.ports)) }()
			first := r.talk(r.world.Node, r.cg, "from-tcp", hostport(addr, 443), "-")
			mine := first.next().From
			second := r.talk(r.world.Node, others, "from-tcp", hostport(addr, 53), mine)
			if got := second.next(); got.From != mine {
				t.Fatalf("the second: %+v, want the source %s", got, mine)
			}
			for _, w := range []struct {
				ln       net.Listener
				c        *talker
				port     int
				workload uint32
			}{{proxy, first, 443, 1}, {dns, second, 53, 2}} {
				c, err := w.ln.Accept()
				must(t, err)
				at, err := arrival.Of(c.(*net.TCPConn))
				must(t, err)
				want := fmt.Sprintf("%s of %d by %d", hostport(addr, w.port), w.workload, w.c.cmd.Process.Pid)
				o, ok := r.dp.TakeOrigin(at)
				if got := fmt.Sprintf("%s of %d by %d", o.Dst, o.Workload, o.PID); !ok || got != want {
					t.Errorf("accepted: %s, %v; want %s", got, ok, want)
				}
				must(t, c.Close())
			}
			if a, b := r.dp.Origins(1).Entries, r.dp.Origins(2).Entries; a != 0 || b != 0 {
				t.Errorf("%d and %d entries are left", a, b)
			}
		})
	}
}

// waiting listens where nobody accepts, and notes the port.
func (r *rig) waiting(t *testing.T, at netip.Addr, port *uint16) net.Listener {
	ln, err := r.world.Node.Listen(netip.AddrPortFrom(at, 0))
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	*port = ln.Addr().(*net.TCPAddr).AddrPort().Port()
	return ln
}
