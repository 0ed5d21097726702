// SPDX-License-Identifier: Apache-2.0

package shift

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// fakeCore has connections open that end when they are told to.
type fakeCore struct {
	open     atomic.Int64
	lingers  atomic.Bool
	idle     int64 // of the open ones: these end with Linger
	ends     chan struct{}
	deadline time.Time // of Shutdown
}

func (c *fakeCore) Linger() {
	c.lingers.Store(true)
	c.open.Add(-c.idle)
}

func (c *fakeCore) Idle() bool { return c.open.Load() == 0 }

func (c *fakeCore) Shutdown(ctx context.Context) error {
	c.deadline, _ = ctx.Deadline()
	if c.open.Load() == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ends:
		return nil
	}
}

// TestDrainEnds: a drain ends with what is open, and not with its time; what does not
// end is cut when the time is over.
func TestDrainEnds(t *testing.T) {
	t.Parallel()
	const long, short = time.Hour, 200 * time.Millisecond
	for name, tt := range map[string]struct {
		open, idle int64
		waits      bool
		time       time.Duration
		whole      bool // it takes all of its time
	}{
		"nothing open":             {0, 0, true, long, false},
		"only idle connections":    {3, 3, true, long, false},
		"a request that goes on":   {3, 2, true, short, true},
		"exec, nothing open":       {0, 0, false, long, false},
		"exec, a server that goes": {1, 0, false, short, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := &fakeCore{idle: tt.idle}, &fakeCore{}
			a.open.Store(tt.open)
			ended := false
			begin := time.Now()
			Drain{Cores: []Drained{{a, "cut"}, {b, "cut"}}, Time: tt.time, Waits: tt.waits, Log: slog.New(slog.DiscardHandler)}.
				Run(func() { ended = true })
			if took := time.Since(begin); tt.whole && took < tt.time || took > time.Minute {
				t.Errorf("it took %v of %v", took, tt.time)
			}
			if !ended || !a.lingers.Load() || !b.lingers.Load() || a.deadline.IsZero() {
				t.Errorf("shift ended %t; %+v", ended, a)
			}
		})
	}
}

// TestDrainWaits: what is open may go on as long as the drain time is not over, and
// the drain ends when it does.
func TestDrainWaits(t *testing.T) {
	t.Parallel()
	c := &fakeCore{}
	c.open.Store(1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		Drain{Cores: []Drained{{c, "cut"}}, Time: time.Hour, Waits: true, Log: slog.New(slog.DiscardHandler)}.Run(nil)
	}()
	select {
	case <-done:
		t.Error("it ended with a connection open")
	case <-time.After(10 * lingerLook):
	}
	c.open.Store(0)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("it goes on with nothing open")
	}
}

// TestDrainAwaits: a daemon that waits for another one ends its shift when nothing is open
// and none is to come any more, or in the last part of its time; when the other one has
// taken over the shift is not its own to end, and what is open goes on.
func TestDrainAwaits(t *testing.T) {
	for _, c := range []struct {
		what   string
		time   time.Duration
		on     int // looks at which another one is to come
		over   bool
		looks  int // at least
		ends   bool
		linger int // looks for which something is open
	}{
		{"none is to come", time.Hour, 0, false, 1, true, 0},
		{"it does not come after all", time.Hour, 5, false, 6, true, 0},
		{"it has taken over", time.Hour, 5, true, 6, false, 3},
		{"it never comes", 50 * time.Millisecond, 1 << 30, false, 2, true, 0},
	} {
		var steps []string
		looks, open := 0, &core{name: "out", open: c.linger + 1, steps: &steps}
		d := Drain{Time: c.time, Waits: true, Log: slog.New(slog.DiscardHandler), Cores: []Drained{{open, ""}}, Await: func() (on, over bool) {
			looks++
			return looks <= c.on, c.over && looks > c.on
		}}
		d.Run(func() { steps = append(steps, "end") })
		if ended := slices.Contains(steps, "end"); ended != c.ends || looks < c.looks {
			t.Errorf("%s: the shift ended %t after %d looks", c.what, ended, looks)
		}
		if open.open != 0 || steps[len(steps)-1] != "out shutdown" {
			t.Errorf("%s: %d are open after %v", c.what, open.open, steps)
		}
	}
}
