// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"net"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// dialDrawn connects to an endpoint of u. Nothing was sent when that can't be
// reached, so the others are tried where a DestinationRule says which one comes
// first.
func (t *conn) dialDrawn(u *policy.Upstream) (net.Conn, drawn, error) {
	var tried []upstreamKey
	for silent := 0; ; {
		d, err := t.draw(func() context.Context { return t.ctx }, u, t.sourceHash, tried)
		if err != nil {
			return nil, d, err
		}
		key := keyOf(d.up, false)
		up, late, err := t.dialOne(u, &d)
		if err == nil {
			return up, d, nil
		}
		d.end()
		if late {
			silent++
		}
		again := u.Balanced() && unreachable(err) && t.ctx.Err() == nil && silent <= maxSilent && len(tried) < maxTried && !triedBefore(key, tried)
		if tried = append(tried, key); !again {
			return nil, d, err
		}
	}
}

// How many more endpoints a connection is tried at: maxTried of those that refuse it,
// and as few as HTTP is by default of those that say nothing, for which it waits.
const maxTried, maxSilent = 7, 2

func triedBefore(key upstreamKey, tried []upstreamKey) bool {
	for _, k := range tried {
		if k.endpoint == key.endpoint && k.socket == key.socket && k.name == key.name {
			return true
		}
	}
	return false
}

// dialOne connects to what was drawn; late says that the time for it was over.
func (t *conn) dialOne(u *policy.Upstream, d *drawn) (up net.Conn, late bool, err error) {
	if err := d.takeConnection(); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.core.connectTimeout(u))
	defer cancel()
	up, err = t.core.o.Dialer.Dial(ctx, &t.info, d.up)
	if err != nil {
		d.giveConnection()
		if unreachable(err) && t.ctx.Err() == nil {
			d.on.Report(balance.FailedLocally)
		}
		return nil, ctx.Err() != nil, err
	}
	d.on.Report(balance.Good)
	d.connected = true
	keepalive(up, d.up)
	return up, false, nil
}

// unreachable says of an error of dialOne that the endpoint was dialled in vain.
func unreachable(err error) bool { return !dial.Refused(err) && !limits.IsExceeded(err) }
