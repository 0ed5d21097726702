// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"unique"

	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// poolKey stands for what a connection may be used for: a lookup by it costs no hash
// of all the names in it.
type poolKey = unique.Handle[use]

// use says for whom a connection may be used: one workload, under the policy
// and for the address that it was made for. The number of a workload that has gone is
// another's in time, so that its name counts as well.
type use struct {
	holder   limits.Owner
	workload string
	policy   policy.PolicyID
	// dialled is the workload's own choice among the addresses of a name;
	// clients of a Gateway have none.
	dialled netip.Addr
	ConnKey
}

// poolKey remembers the last one: most clients use one service.
func (p *Conns) poolKey(key *ConnKey) poolKey {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pooled != nil && p.pooled.ConnKey == *key {
		return p.pooled.at
	}
	info := p.info
	out := use{holder: info.Owner(), workload: info.Workload, policy: info.Policy, ConnKey: *key}
	if info.Layer == flow.Egress {
		out.dialled = info.Dst.Addr()
	}
	p.pooled = p.m.pool.pooled(&out)
	return p.pooled.at
}

// pooled is what clients have used of the pool. It does not change.
type pooled struct {
	use
	at poolKey
}

// pooled remembers the last one as well: a client's connections come one after the other.
func (q *pool) pooled(u *use) *pooled {
	if r := q.recent.Load(); r != nil && r.use == *u {
		return r
	}
	r := &pooled{*u, unique.Make(*u)}
	q.recent.Store(r)
	return r
}

// pool has the upstream connections that several downstream connections may use,
// one after the other, while none does. Nobody has authenticated on them.
type pool struct {
	watcher *relay.EndWatcher
	recent  atomic.Pointer[pooled]

	mu     sync.Mutex
	idle   map[poolKey][]*HTTPConn
	closed bool
}

func newPool(w *relay.EndWatcher) *pool {
	return &pool{watcher: w, idle: map[poolKey][]*HTTPConn{}}
}

// take returns a connection for one request of p's, nil when there is none. The
// one that was used last is the least likely to be closed by its upstream.
func (q *pool) take(p *Conns, key *ConnKey) *HTTPConn {
	for at := p.poolKey(key); ; {
		c := q.pop(at)
		switch {
		case c == nil:
			return nil
		case p.add(c) && c.admits():
			return c
		}
		c.Close()
	}
}

func (q *pool) pop(at poolKey) *HTTPConn {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.idle[at]
	if len(list) == 0 {
		return nil
	}
	var claimed *HTTPConn
	for len(list) > 0 && claimed == nil {
		last := len(list) - 1
		if c := list[last]; c.claim() {
			claimed = c
		}
		list[last] = nil
		list = list[:last]
	}
	q.keep(at, list)
	return claimed
}

// keep has list be those for at.
func (q *pool) keep(at poolKey, list []*HTTPConn) {
	if len(list) == 0 {
		delete(q.idle, at)
		return
	}
	q.idle[at] = list
}

// park takes c over from p, or closes it when there is no room. Requests of p's that
// end at about the same time may all come here, and others begin meanwhile: whoever
// takes c off p's list has it, and nobody claims it from there any more.
func (q *pool) park(p *Conns, c *HTTPConn) {
	at := p.poolKey(&c.Key)
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
	if !q.add(at, c) {
		c.Close()
	}
}

func (q *pool) add(at poolKey, c *HTTPConn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.idle[at]
	if q.closed || c.outdated() || len(list) >= maxIdle {
		return false
	}
	c.at = at
	c.setOwner(nil, q)
	c.expireAfter(c.sharing)
	c.park(q.watcher)
	if c.closed.Load() { // too late for remove to see it
		return false
	}
	q.idle[at] = append(list, c)
	return true
}

// remove forgets c, which is closed.
func (q *pool) remove(c *HTTPConn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.idle[c.at], c); i >= 0 {
		q.keep(c.at, slices.Delete(q.idle[c.at], i, i+1))
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
