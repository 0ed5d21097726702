// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestResetAtTheEnd: a client resets a stream, of whose request a body is owed, at the
// moment at which it is answered. The end of the request finds nothing of net/http's
// that is gone: that would be the end of egressd.
func TestResetAtTheEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t, HTTP)
	r.http = func(*policy.Request) policy.HTTPDecision {
		return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
	}
	r.addr()
	const conns, each = 8, 400
	var wg sync.WaitGroup
	for range conns {
		c := r.frames()
		wg.Go(func() {
			read := make(chan struct{})
			go func() {
				defer close(read)
				c.read(nil)
			}()
			for range each {
				_ = c.WriteRSTStream(c.open(false), http2.ErrCodeCancel)
			}
			c.nc.Close()
			<-read
		})
	}
	wg.Wait()
	r.sink.wait(t, flow.Close, conns)
}
