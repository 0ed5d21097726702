// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestPoolTimeouts: the idle timeout and the greatest age are the upstream's, for
// bytes that nobody reads and for TLS.
func TestPoolTimeouts(t *testing.T) {
	hour := func(o *Options) { o.IdleTimeout = time.Hour }
	short50 := func(o *Options) { o.IdleTimeout = 50 * time.Millisecond }
	for name, tt := range map[string]struct {
		pool    policy.ConnectionPool
		options rigOption
		ends    bool
		flags   string
	}{
		"idle":            {policy.ConnectionPool{TCPIdleTimeout: 50 * time.Millisecond}, hour, true, ""},
		"no idle timeout": {policy.ConnectionPool{TCPIdleTimeout: -1}, short50, false, ""},
		"age":             {policy.ConnectionPool{MaxConnectionDuration: 50 * time.Millisecond}, hour, true, "DT"},
		"neither":         {policy.ConnectionPool{}, hour, false, ""},
	} {
		for _, protocol := range []Handling{Opaque, TLS} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, protocol, tt.options)
				u := upstreamOf("up.example")
				u.Traffic = &policy.TrafficPolicy{Pool: &tt.pool}
				r.open = func(*Conn) Admission { return Admission{Protocol: protocol, Decision: allowed, Upstream: u} }
				r.tls = func(string) (policy.Decision, *policy.Upstream) { return allowed, u }
				conns := r.accepts("up.example")
				nc := r.dial()
				first := string(hello(t, "up.example"))
				write(t, nc, first)
				up := receive(t, conns)
				readN(t, up, len(first))
				if !tt.ends {
					time.Sleep(200 * time.Millisecond) // four times what would end it
					write(t, nc, "\x17\x03\x03\x00\x01x")
					readN(t, up, 6)
					return
				}
				expectReset(t, nc)
				expectReset(t, up)
				if e := r.sink.wait(t, flow.Close, 1); e.ResponseFlags != tt.flags || e.Detail == "" || !e.Allowed || e.Reason != policy.ReasonAllowed {
					t.Errorf("event %+v", e)
				}
			})
		}
	}
}
