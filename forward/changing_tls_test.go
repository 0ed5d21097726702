// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// terminating is a Decider that ends TLS here, or not.
type terminating struct {
	*fakes
	ends bool // under fakes.mu
}

func (d *terminating) Terminate(*Conn, string) (Termination, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Termination{Decision: allowed, Config: &tls.Config{}}, d.ends
}

// gated is a Dialer that waits.
type gated struct {
	*fakes
	here, goOn chan bool
}

func (d *gated) Dial(ctx context.Context, c *Conn, u *policy.Upstream) (net.Conn, error) {
	d.here <- true
	<-d.goOn
	return d.fakes.Dial(ctx, c, u)
}

// TestPassedThroughBeforeItEnds: TLS that is about to be passed through, when the policy
// changes and has it end here, is not passed through.
func TestPassedThroughBeforeItEnds(t *testing.T) {
	for _, ends := range []bool{false, true} {
		var d *terminating
		r := newRig(t, TLS, func(o *Options) {
			d = &terminating{fakes: o.Decider.(*fakes)}
			o.Decider = d
		})
		gate := &gated{r.fakes, make(chan bool), make(chan bool)}
		r.dialer.Dialer = gate
		conns := r.accepts("a.example")
		nc := r.dial()
		write(t, nc, string(hello(t, "a.example")))
		<-gate.here
		r.change(func() { d.ends = ends })
		r.core.Recheck()
		gate.goOn <- true
		if !ends {
			up := receive(t, conns)
			readN(t, up, 5)
			continue
		}
		expectReset(t, nc)
		if e := r.sink.wait(t, flow.Close, 1); e.Reason != policy.ReasonPolicyChanged || e.Allowed {
			t.Errorf("event %+v", e)
		}
	}
}
