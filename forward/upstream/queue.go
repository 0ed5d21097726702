// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"time"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/policy"
)

// queue brings a connection of a service whose connections are counted. Until there
// is one the request is one of those that wait, of which there may be too many
// (Envoy's max_pending_requests). Where the service has all the connections that it
// may have, it waits for one: one that others have used, if it may be shared, or
// room for another, for which one is closed that nobody uses.
func (p *Conns) queue(ctx context.Context, d *Drawn, key ConnKey, fresh bool) (*HTTPConn, error) {
	if !d.Balanced.Take(balance.Pending) {
		return nil, overflow(balance.Pending)
	}
	defer d.Balanced.Give(balance.Pending)
	for {
		freed := d.Balanced.Freed()
		if d.Balanced.Take(balance.Connections) {
			return p.counted(ctx, d, key)
		}
		if !fresh {
			if c := p.claimed(&key); c != nil {
				return c, nil
			}
			if _, ok := p.Sharing(d.Upstream); ok {
				if c := p.m.pool.take(p, &key); c != nil {
					return c, nil
				}
			}
		}
		if p.closeOne(d.Balanced) || p.m.pool.closeOne(d.Balanced) {
			continue
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// counted makes a connection for which room was taken.
func (p *Conns) counted(ctx context.Context, d *Drawn, key ConnKey) (*HTTPConn, error) {
	c, err := p.connect(ctx, d.Upstream, key)
	if err != nil {
		d.Balanced.Give(balance.Connections)
		return nil, err
	}
	c.count(d.Balanced)
	return c, nil
}

// count makes c one of the connections of a service.
func (c *HTTPConn) count(of *Balanced) {
	c.mu.Lock()
	c.of = of
	c.mu.Unlock()
	if c.closed.Load() {
		c.uncount() // Close may have looked before
	}
}

// uncount gives back the room that c, which is closed, has.
func (c *HTTPConn) uncount() {
	c.mu.Lock()
	of := c.of
	c.of = nil
	if c.last != nil {
		c.last.Stop()
	}
	c.mu.Unlock()
	if of != nil {
		of.Give(balance.Connections)
	}
}

// service is whose connection it is; nil: it is not counted.
func (c *HTTPConn) service() *Balanced {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of
}

// freed has those look again who wait for a connection.
func (c *HTTPConn) freed() {
	if of := c.service(); of != nil {
		of.Wake()
	}
}

// lastFor has c serve no more requests after the time that a connection to u may
// be open for.
func (c *HTTPConn) lastFor(u *policy.Upstream) {
	if u.Traffic == nil || u.Traffic.Pool == nil || u.Traffic.Pool.MaxConnectionDuration <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = time.AfterFunc(u.Traffic.Pool.MaxConnectionDuration, func() {
		c.Finish()
		if !c.busy() {
			c.Close()
		}
	})
}

// closeOne closes a connection of a service that nobody uses, and on which nobody
// has authenticated.
func (p *Conns) closeOne(of *Balanced) bool {
	for _, c := range p.List() {
		if !c.isPrivate() && c.service() == of && c.retire() {
			c.Close()
			return true
		}
	}
	return false
}

// closeOne is the same for those in the pool.
func (q *pool) closeOne(of *Balanced) bool {
	q.mu.Lock()
	var found *HTTPConn
	for _, list := range q.idle {
		for _, c := range list {
			if c.service() == of {
				found = c
			}
		}
	}
	q.mu.Unlock()
	if found == nil || !found.claim() {
		return false // or somebody was faster
	}
	found.Close()
	return true
}
