// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// recyclePart is which part of a workload's connections is closed at once, two at least:
// one that goes leaves room for half of another.
const recyclePart = 16

// recycler makes room by closing connections that nothing passes on, so that who
// keeps idle connections for ever does not keep what is needed: of the workload that
// has most those that were quiet the longest, some at once and not too often, for it
// asks the kernel about each.
type recycler struct {
	every  time.Duration
	closed atomic.Uint64

	mu   sync.Mutex
	last time.Time
}

// due says whether it is time to look again.
func (r *recycler) due() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.last) >= r.every {
		r.last = now
		return true
	}
	return false
}

// entry is what a connection takes when it comes. One that was redirected on
// loopback has one of the ports that everybody there shares; visitors of a gateway
// share those of another pair of addresses.
func (t *conn) entry() limits.Cost {
	c := limits.Cost{Descriptors: 1, Memory: limits.ConnMemory, Connections: 1}
	if t.Info.Layer != flow.Ingress && isLoopback(t.Info.Src) {
		c.Ports = 1
	}
	return c
}

func isLoopback(a netip.AddrPort) bool { return a.Addr().Unmap().IsLoopback() }

// take takes c for the connection. When there is none, quiet connections of whoever
// has most are closed for it.
func (t *conn) take(c limits.Cost) error {
	err := t.Held.TakeAll(c)
	if err == nil {
		return nil
	}
	var limit *limits.ExceededError
	if !errors.As(err, &limit) || limit.Budget == nil || !t.core.recycler.due() {
		return err
	}
	if t.core.recycle(limit.Budget) == 0 {
		return err
	}
	return t.Held.TakeAll(c)
}

// recycle closes quiet connections of the workload that has most of b, and says
// how many.
func (c *Core) recycle(b *limits.Budget) int {
	who, ok := b.Most()
	if !ok {
		return 0
	}
	type idle struct {
		t     *conn
		quiet time.Duration
	}
	var list []idle
	all := 0
	for _, t := range c.open() {
		if t.Holder() != who {
			continue
		}
		all++
		if d, ok := relay.Quiet(t.NC); ok && d >= c.o.RecycleTimeout {
			list = append(list, idle{t, d})
		}
	}
	slices.SortFunc(list, func(a, b idle) int { return cmp.Compare(b.quiet, a.quiet) })
	list = list[:min(len(list), max(2, all/recyclePart))]
	for _, i := range list {
		i.t.Kill(policy.ReasonQuota, "nothing has passed for "+i.quiet.Round(time.Second).String()+", and others needed the room")
		i.t.Held.End()
	}
	c.recycler.closed.Add(uint64(len(list)))
	return len(list)
}
