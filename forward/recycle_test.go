// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/session"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestQuietMakeRoom: when a workload is refused, the connections of the one with most
// on which nothing passes go first, and those that are used stay.
func TestQuietMakeRoom(t *testing.T) {
	const room = 8 // a workload alone may have 4
	for _, who := range []netip.Addr{netip.MustParseAddr("127.0.0.1"), second} {
		for quiet, want := range map[time.Duration]bool{time.Hour: false, 300 * time.Millisecond: true} {
			bounds := &limits.Limits{Descriptors: limits.NewBudget(1 << 20), Memory: limits.NewBudget(1 << 30), Ports: limits.NewBudget(room)}
			r := newRig(t, Opaque, func(o *Options) { o.Limits, o.RecycleTimeout = bounds, quiet })
			ups := r.accepts("opaque.example")
			var held, far []*net.TCPConn
			for range room / 2 {
				held = append(held, r.dial())
				far = append(far, receive(t, ups))
			}
			talk := func() {
				for i, c := range held[2:] {
					write(t, c, "x")
					readN(t, far[i+2], 1)
				}
			}
			// The second workload has what it may have as well.
			for bounds.Ports.Take(limits.Owner{Layer: r.layer, Workload: 2}, 1) == "" {
			}
			decisions, let := room/2, false
			for deadline := time.Now().Add(5 * time.Second); !let && time.Now().Before(deadline); decisions++ {
				talk()
				if nc, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: who.AsSlice()}}).DialContext(t.Context(), "tcp", r.addr()); err == nil {
					defer nc.Close()
				}
				e := r.sink.wait(t, flow.Decision, decisions+1)
				if let = e.Allowed; !let && e.Reason != policy.ReasonQuota {
					t.Errorf("%s: %+v", who, e)
				}
				if !want && decisions == room {
					break
				}
			}
			if let != want || r.core.Stats().Recycled > 0 != want {
				t.Errorf("%s, quiet for %s: let in %v, closed %d", who, quiet, let, r.core.Stats().Recycled)
			}
			talk() // they are still there
			if want {
				expectReset(t, held[0])
				expectReset(t, held[1])
				if e := r.sink.wait(t, flow.Close, 1); e.Reason != policy.ReasonQuota || e.Detail == "" {
					t.Errorf("%s: closed: %+v", who, e)
				}
			}
		}
	}
}

// TestPortsAreLoopbacks: only what came by loopback takes one of its ports.
func TestPortsAreLoopbacks(t *testing.T) {
	for from, want := range map[string]int64{"127.0.0.1:1": 1, "[::1]:1": 1, "[::ffff:127.0.0.1]:1": 1, "10.0.0.1:1": 0, "[fd00::1]:1": 0} {
		c := conn{Session: &session.Session{Info: Conn{Src: netip.MustParseAddrPort(from)}}}
		if got := c.entry().Ports; got != want {
			t.Errorf("%s: %d, want %d", from, got, want)
		}
	}
}

// TestEach: the bound of one holder is beside its share, and the share says both.
func TestEach(t *testing.T) {
	b := limits.NewBudget(100).Each(3)
	h := limits.Owner{Layer: flow.Egress, Workload: 1}
	for i := range 4 {
		if why := b.Take(h, 1); (why == "") != (i < 3) {
			t.Errorf("%d: %q", i, why)
		}
	}
	if u := b.UseOf(h); u != (limits.Use{Used: 3, Max: 3}) {
		t.Errorf("%+v", u)
	}
	if s := (limits.Share{Connections: b.UseOf(h)}); !s.Full() {
		t.Errorf("not full: %+v", s)
	}
	b.Each(0).Resize(20)
	if u := b.UseOf(h); u != (limits.Use{Used: 3, Max: 10}) || (limits.Share{Ports: u}).Full() {
		t.Errorf("of 20: %+v", u)
	}
	b.Resize(2) // less than is taken: nobody gets any
	if why := b.Take(h, 1); why != policy.ReasonOverload || b.UseOf(h).Max != 1 {
		t.Errorf("of 2: %q, %+v", why, b.UseOf(h))
	}
}
