// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"context"
	"net"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// DialDrawn connects to an endpoint of u. Nothing was sent when that can't be
// reached, so the others are tried where a DestinationRule says which one comes
// first.
func (p *Conns) DialDrawn(ctx context.Context, u *policy.Upstream) (net.Conn, Drawn, error) {
	var tried []ConnKey
	for silent := 0; ; {
		d, err := p.Draw(func() context.Context { return ctx }, u, p.SourceHash, tried)
		if err != nil {
			return nil, d, err
		}
		key := KeyOf(d.Upstream, false)
		up, late, err := p.dialOne(ctx, u, &d)
		if err == nil {
			return up, d, nil
		}
		d.End()
		if late {
			silent++
		}
		again := u.Balanced() && unreachable(err) && ctx.Err() == nil && silent <= maxSilent && len(tried) < maxTried && !triedBefore(key, tried)
		if tried = append(tried, key); !again {
			return nil, d, err
		}
	}
}

// How many more endpoints a connection is tried at: maxTried of those that refuse it,
// and as few as HTTP is by default of those that say nothing, for which it waits.
const maxTried, maxSilent = 7, 2

func triedBefore(key ConnKey, tried []ConnKey) bool {
	for _, k := range tried {
		if k.endpoint == key.endpoint && k.socket == key.socket && k.name == key.name {
			return true
		}
	}
	return false
}

// dialOne connects to what was drawn; late says that the time for it was over.
func (p *Conns) dialOne(within context.Context, u *policy.Upstream, d *Drawn) (up net.Conn, late bool, err error) {
	if err := d.takeConnection(); err != nil {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(within, p.m.ConnectTimeout(u))
	defer cancel()
	up, err = p.m.Dial(ctx, p.info, d.Upstream, "")
	if err != nil {
		d.giveConnection()
		if unreachable(err) && within.Err() == nil {
			d.Picked.Report(balance.FailedLocally)
		}
		return nil, ctx.Err() != nil, err
	}
	d.Picked.Report(balance.Good)
	d.connected = true
	return up, false, nil
}

// unreachable says of an error of dialOne that the endpoint was dialled in vain.
func unreachable(err error) bool { return !dial.Refused(err) && !limits.IsExceeded(err) }
