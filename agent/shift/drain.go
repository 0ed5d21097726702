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
	Log   *slog.Logger
}

// Run serves on until what is open has ended, at most for the drain time: a daemon that
// still lives had better serve than refuse. In its last part it takes nothing new: end
// ends the shift; nil: another daemon serves already.
func (d Drain) Run(end func()) {
	until := time.Now().Add(d.Time)
	for _, c := range d.Cores {
		c.Linger()
	}
	last := until.Add(-min(d.Time/lastPart, lastMost))
	d.awaitIdle(last)
	if end != nil {
		end()
		d.awaitIdle(last) // what was accepted meanwhile
	}
	d.ShutDown(until)
}

// awaitIdle waits until nothing is open, or a moment.
func (d Drain) awaitIdle(until time.Time) {
	if !d.Waits {
		return
	}
	tick := time.NewTicker(lingerLook)
	defer tick.Stop()
	for !d.idle() && time.Now().Before(until) {
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
