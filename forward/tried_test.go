// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/upstream"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// silentDialer waits at an address until the time for it is over.
type silentDialer struct {
	upstream.Dialer
	at netip.AddrPort
}

func (d silentDialer) Dial(ctx context.Context, _ *Conn, _ *policy.Upstream) (net.Conn, error) {
	<-ctx.Done()
	return nil, fmt.Errorf("%w: %w", dial.ErrConnect, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(d.at), Err: ctx.Err()})
}

// TestTriedIsTold: the event of a request, or of a connection, that reached nobody has the
// address that was tried last, and none where nobody was asked.
func TestTriedIsTold(t *testing.T) {
	gone := listen(t, "127.0.0.1:0")
	nobody := netip.MustParseAddrPort(gone.Addr().String())
	gone.Close()
	silent := netip.MustParseAddrPort("[2001:db8::1]:80")
	route := func(r *policy.HTTPRule) func(*rig) {
		return func(g *rig) { g.rule(routeTo(r, "a.example")) }
	}
	for name, c := range map[string]struct {
		set    func(*rig)
		silent bool
		err    error
		status int
		flags  string
		want   netip.AddrPort
	}{
		"refused":            {route(&policy.HTTPRule{Retries: &policy.Retries{}}), false, nil, 503, "UF", nobody},
		"refused again":      {route(&policy.HTTPRule{}), false, nil, 503, "UF,URX", nobody},
		"the time is over":   {route(&policy.HTTPRule{Timeout: 50 * time.Millisecond}), true, nil, 504, "UT", silent},
		"a try's is":         {route(&policy.HTTPRule{Retries: &policy.Retries{Attempts: 1, PerTryTimeout: 50 * time.Millisecond}}), true, nil, 504, "UT", silent},
		"it is not resolved": {route(&policy.HTTPRule{Retries: &policy.Retries{}}), false, dial.ErrResolve, 503, "UH", netip.AddrPort{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, HTTP)
			c.set(r)
			r.addrs["a.example"], r.fails["a.example"] = nobody, c.err
			if c.silent {
				r.dialer.Dialer = silentDialer{r.fakes, silent}
			}
			if resp, _ := get(t, r.client(false), "http://a.example/"); resp.StatusCode != c.status {
				t.Errorf("status %d, want %d", resp.StatusCode, c.status)
			}
			if e := r.sink.wait(t, flow.Request, 1); e.Upstream != c.want || e.ResponseFlags != c.flags {
				t.Errorf("upstream %v, want %v; flags %q, want %q", e.Upstream, c.want, e.ResponseFlags, c.flags)
			}
		})
	}
	t.Run("of a connection", func(t *testing.T) {
		r := newRig(t, Opaque)
		r.addrs["opaque.example"] = nobody
		dialReset(t, r.addr())
		if e := r.sink.wait(t, flow.Close, 1); e.Upstream != nobody || e.ResponseFlags != "UF,URX" {
			t.Errorf("%+v", e)
		}
	})
}
