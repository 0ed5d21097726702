// SPDX-License-Identifier: Apache-2.0

package shift

import (
	"context"
	"log/slog"
	"time"
)

const (
	// lingerLook is how often a daemon that ends looks whether it may.
	lingerLook = 5 * time.Millisecond
	// lastPart is what part of the drain time is for what is under way alone, and
	// lastMost is how much of that at most.
	lastPart = 5
	lastMost = time.Second
)

// Core has connections open; it is a forward.Core.
type Core interface {
	// Linger ends connections as they fall idle, and Idle says that none is open.
	Linger()
	Idle() bool
	// Shutdown ends all: in order until its context ends, then at once, which is an
	// error.
	Shutdown(context.Context) error
}

// Drained is a Core that ends, and what it means that connections of it were cut.
type Drained struct {
	Core
	Cut string
}

// Drain ends what is open.
type Drain struct {
	Cores []Drained
	// Time is for how long what is open may go on.
	Time time.Duration
	// Waits is false for who has nothing to wait for: what exec's command opened ended
	// with it.
	Waits bool
	// Await, where it is not nil, is called at each look before the shift has ended. on
	// says that the daemon serves on although nothing is open, as another one is about to
	// take over, and over that the other one has.
	Await func() (on, over bool)
	Log   *slog.Logger
}

// Run serves on until what is open has ended and no other daemon is about to take over,
// at most for the drain time: a daemon that still lives had better serve than refuse. In
// its last part it takes nothing new: end ends the shift; nil: another daemon serves
// already.
func (d Drain) Run(end func()) {
	until := time.Now().Add(d.Time)
	for _, c := range d.Cores {
		c.Linger()
	}
	last := until.Add(-min(d.Time/lastPart, lastMost))
	over := d.awaitIdle(last, d.Await)
	if !over && end != nil {
		end()
	}
	if over || end != nil {
		d.awaitIdle(last, nil) // what was accepted meanwhile
	}
	d.ShutDown(until)
}

// awaitIdle waits until nothing is open and await, which may be nil, lets it end, or a
// moment. over: another daemon has taken over.
func (d Drain) awaitIdle(until time.Time, await func() (on, over bool)) (over bool) {
	if !d.Waits {
		return false
	}
	tick := time.NewTicker(lingerLook)
	defer tick.Stop()
	for {
		on := false
		if await != nil {
			if on, over = await(); over {
				return true
			}
		}
		if !on && d.idle() || !time.Now().Before(until) {
			return false
		}
		<-tick.C
	}
}

func (d Drain) idle() bool {
	for _, c := range d.Cores {
		if !c.Idle() {
			return false
		}
	}
	return true
}

// ShutDown ends what is open: in order until then, and then at once.
func (d Drain) ShutDown(end time.Time) {
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	for _, c := range d.Cores {
		if err := c.Shutdown(ctx); err != nil {
			d.Log.Warn(c.Cut, "error", err)
		}
	}
}
