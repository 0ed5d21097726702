// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net"
	"time"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// dialDrawn connects to an endpoint of u. Nothing was sent when that can't be
// reached, so the others are tried where a DestinationRule says which one comes
// first.
func (t *conn) dialDrawn(u *policy.Upstream) (net.Conn, drawn, error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.core.connectTimeout(u))
	defer cancel()
	var tried []upstreamKey
	for {
		d, err := t.draw(ctx, u, t.sourceHash, tried)
		if err != nil {
			return nil, d, err
		}
		key := keyOf(d.up, false)
		up, err := t.dialOne(ctx, &d)
		if err == nil {
			return up, d, nil
		}
		d.end()
		again := u.Balanced() && unreachable(err) && ctx.Err() == nil && len(tried) < maxTried && !triedBefore(key, tried)
		if tried = append(tried, key); !again {
			return nil, d, err
		}
	}
}

// maxTried is to how many endpoints a connection is tried.
const maxTried = 8

func triedBefore(key upstreamKey, tried []upstreamKey) bool {
	for _, k := range tried {
		if k.endpoint == key.endpoint && k.socket == key.socket && k.name == key.name {
			return true
		}
	}
	return false
}

func (t *conn) dialOne(ctx context.Context, d *drawn) (net.Conn, error) {
	if err := d.takeConnection(); err != nil {
		return nil, err
	}
	up, err := t.core.o.Dialer.Dial(ctx, &t.info, d.up)
	if err != nil {
		d.giveConnection()
		if unreachable(err) && t.ctx.Err() == nil {
			d.on.Report(balance.FailedLocally)
		}
		return nil, err
	}
	d.on.Report(balance.Good)
	d.connected = true
	keepalive(up, d.up)
	return up, nil
}

// last ends the connection when it has been open for as long as the service's may
// be. The function that it returns stops that.
func (t *conn) last(u *policy.Upstream) (stop func()) {
	if u.Traffic == nil || u.Traffic.Pool == nil || u.Traffic.Pool.MaxConnectionDuration <= 0 {
		return func() {}
	}
	d := u.Traffic.Pool.MaxConnectionDuration
	timer := time.AfterFunc(d, func() { t.kill(policy.ReasonAllowed, "open for "+d.String()+" (maxConnectionDuration)") })
	return func() { timer.Stop() }
}

// idleOf is how long nothing may pass on a connection to u.
func (t *conn) idleOf(u *policy.Upstream) time.Duration {
	if u == nil || u.Traffic == nil || u.Traffic.Pool == nil || u.Traffic.Pool.TCPIdleTimeout == 0 {
		return t.core.o.IdleTimeout
	}
	return u.Traffic.Pool.TCPIdleTimeout
}

// unreachable says of an error of dialOne that the endpoint was dialled in vain.
func unreachable(err error) bool { return !dial.Refused(err) && !isLimit(err) }
