// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"slices"
	"sync"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// poolKey says for whom a connection may be used: one workload, under the policy
// and for the address that it was made for. The number of a workload that has gone is
// another's in time, so that its name counts as well.
type poolKey struct {
	holder   limits.Owner
	workload string
	policy   policy.PolicyID
	// dialled is the workload's own choice among the addresses of a name;
	// clients of a Gateway have none.
	dialled netip.Addr
	ConnKey
}

func (p *Conns) poolKey(key ConnKey) poolKey {
	info := p.info
	out := poolKey{holder: info.Owner(), workload: info.Workload, policy: info.Policy, ConnKey: key}
	if info.Layer == flow.Egress {
		out.dialled = info.Dst.Addr()
	}
	return out
}

// pool has the upstream connections that several downstream connections may use,
// one after the other, while none does. Nobody has authenticated on them.
type pool struct {
	limits  *limits.Limits
	watcher *relay.EndWatcher

	mu     sync.Mutex
	idle   map[poolKey][]*HTTPConn
	closed bool
}

func newPool(limits *limits.Limits, w *relay.EndWatcher) *pool {
	return &pool{limits: limits, watcher: w, idle: map[poolKey][]*HTTPConn{}}
}

// take returns a connection for one request of p's, nil when there is none. The
// one that was used last is the least likely to be closed by its upstream.
func (q *pool) take(p *Conns, key ConnKey) *HTTPConn {
	for at := p.poolKey(key); ; {
		c := q.pop(at)
		switch {
		case c == nil:
			return nil
		case c.move(p.held) == nil && p.add(c) && c.admits():
			return c
		}
		c.Close()
	}
}

func (q *pool) pop(at poolKey) *HTTPConn {
	q.mu.Lock()
	defer q.mu.Unlock()
	for list := q.idle[at]; len(list) > 0; list = q.idle[at] {
		c := list[len(list)-1]
		q.drop(at, len(list)-1)
		if c.claim() {
			return c
		}
	}
	return nil
}

// drop takes the i-th connection off a list.
func (q *pool) drop(at poolKey, i int) {
	if q.idle[at] = slices.Delete(q.idle[at], i, i+1); len(q.idle[at]) == 0 {
		delete(q.idle, at)
	}
}

// park takes c over from p, or closes it when there is no room. Requests of p's that
// end at about the same time may all come here, and others begin meanwhile: whoever
// takes c off p's list has it, and nobody claims it from there any more.
func (q *pool) park(p *Conns, c *HTTPConn) {
	at := p.poolKey(c.Key)
	for {
		if !p.remove(c, false) {
			return // somebody else has brought it here
		}
		if !c.busy() {
			break
		}
		if !p.add(c) { // another request of p's was faster
			c.Close()
			return
		}
		if c.busy() {
			return // its end brings c here
		}
	}
	if c.move(limits.NewLease(q.limits, at.holder)) != nil || !q.add(at, c) {
		c.Close()
	}
}

func (q *pool) add(at poolKey, c *HTTPConn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || c.outdated() || len(q.idle[at]) >= maxIdle {
		return false
	}
	c.at = at
	c.setOwner(nil, q)
	c.expireAfter(c.sharing)
	c.park(q.watcher)
	if c.closed.Load() { // too late for remove to see it
		return false
	}
	q.idle[at] = append(q.idle[at], c)
	return true
}

// remove forgets c, which is closed.
func (q *pool) remove(c *HTTPConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.idle[c.at], c); i >= 0 {
		q.drop(c.at, i)
	}
}

// closeIdle closes what is there; closed: and what comes.
func (q *pool) closeIdle(closed bool) {
	q.mu.Lock()
	q.closed = q.closed || closed
	old := q.idle
	q.idle = map[poolKey][]*HTTPConn{}
	q.mu.Unlock()
	for _, list := range old {
		for _, c := range list {
			c.Close()
		}
	}
}
