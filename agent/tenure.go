// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"github.com/egressd/egressd/agent/shift"
	"github.com/egressd/egressd/agent/takeover"
	"github.com/egressd/egressd/internal/handover"
)

// tenure is the time between two daemons: it has more shifts than one where others
// failed to take over.
type tenure struct {
	shifts []*shift.Shift
	now    *shift.Shift   // nil: nobody serves, or the heir does
	heir   *takeover.Heir // who has taken over, nil: nobody
}

// yield leaves everything to an heir that is prepared. When that fails the tenure goes
// on, and when it cannot, fail is called.
func (a *Agent) yield(ctx context.Context, c *handover.Channel, t *tenure, fail context.CancelCauseFunc) {
	var err error
	if t.now, t.heir, err = a.handOver(ctx, c, t.now, fail); err != nil {
		fail(err)
	}
	if t.now != nil {
		t.shifts = append(t.shifts, t.now)
	}
}

// serveOut serves on as long as a daemon may that was told to end. It waits for an heir
// that prepares, or that is to come: until that serves, nobody else would.
func (a *Agent) serveOut(ctx context.Context, fail context.CancelCauseFunc, t *tenure) {
	a.ready.Serves(false)
	pod, told := a.capture.OwnPod(), false
	d := a.drain()
	d.Await = func() (on, over bool) {
		select {
		case c := <-a.heirs:
			a.yield(ctx, c, t, fail)
			a.ready.Serves(false)
			if t.heir != nil {
				a.release()
			}
			return true, t.now == nil
		default:
		}
		on = a.preparing.Load() || a.kubernetes.Successor(pod)
		if on && !told {
			told = true
			a.log.Info("another egressd is to take over; this one serves until it has", "within", a.opts.DrainTime)
		}
		return on, false
	}
	d.Run(func() { a.endShift(t.now) })
}

// waitAnswered waits until the queries that were under way are answered, which the heir
// learns, and hangs up.
func (t *tenure) waitAnswered() {
	for _, s := range t.shifts {
		s.WaitAnswered()
	}
	if t.heir != nil {
		t.heir.Leave()
	}
}
