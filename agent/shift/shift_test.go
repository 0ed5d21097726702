// SPDX-License-Identifier: Apache-2.0

package shift

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

var errLoop = errors.New("the loop failed")

// TestShift: what workloads reach begins when the programs are in force, or when the
// shift is over without that; the daemon hears of a loop that fails while it serves.
func TestShift(t *testing.T) {
	for _, inForce := range []bool{true, false} {
		parent, cancel := context.WithCancel(t.Context())
		var failed []error
		var mu sync.Mutex
		s := Begin(parent, func(err error) { mu.Lock(); defer mu.Unlock(); failed = append(failed, err) })
		cancel() // the shift outlives who asks the daemon to end: it drains
		var order []string
		note := func(what string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, what)
		}
		ran := make(chan struct{})
		s.Serve(func() error { note("read"); close(ran); <-s.Context.Done(); return errLoop })
		s.Accept(func() error { note("accept"); return nil })
		answered, goOn := make(chan struct{}), make(chan struct{})
		s.Answer(func() error { note("answer"); close(answered); <-goOn; return errLoop })
		<-ran
		if s.Context.Err() != nil {
			t.Error("it ends with who asked for it")
		}
		if note("in force"); inForce {
			s.InForce()
			<-answered
		}
		s.Stop()
		s.Wait()
		mu.Lock() // an answer may begin still
		got := strings.Join(order, " ")
		mu.Unlock()
		if !strings.HasPrefix(got, "read in force ") || !strings.Contains(got, "accept") {
			t.Errorf("in force %t: %s", inForce, got)
		}
		close(goOn) // an answer outlives the shift's loops
		s.WaitAnswered()
		if len(failed) > 0 {
			t.Errorf("in force %t: loops that end with the shift failed the daemon: %v", inForce, failed)
		}
	}
}

// TestFails: a loop that ends with an error while the daemon serves ends the daemon,
// and one that ends well does not.
func TestFails(t *testing.T) {
	failed := make(chan error, 2)
	s := Begin(t.Context(), func(err error) { failed <- err })
	s.InForce()
	s.Accept(func() error { return nil })
	s.Answer(func() error { return errLoop })
	s.WaitAnswered()
	s.Stop()
	s.Wait()
	if err := <-failed; !errors.Is(err, errLoop) || len(failed) > 0 {
		t.Errorf("%v, and %d more", err, len(failed))
	}
}

// core has connections for a number of looks.
type core struct {
	name  string
	open  int
	cut   error
	steps *[]string
}

func (c *core) step(what string) { *c.steps = append(*c.steps, c.name+" "+what) }
func (c *core) Linger()          { c.step("linger") }

func (c *core) Idle() bool {
	if c.open > 0 {
		c.open--
	}
	return c.open == 0
}

func (c *core) Shutdown(ctx context.Context) error {
	if _, bounded := ctx.Deadline(); !bounded {
		c.step("unbounded")
	}
	c.step("shutdown")
	return c.cut
}

// TestDrain: both cores linger before the shift ends, which is when nothing is open or
// the last part of the time begins; each is shut down, also when the other was cut.
func TestDrain(t *testing.T) {
	for _, c := range []struct {
		what  string
		open  [2]int
		time  time.Duration
		waits bool
		takes time.Duration // at least
	}{
		{"nothing open", [2]int{}, time.Hour, true, 0},
		{"a few", [2]int{3, 5}, time.Hour, true, 5 * lingerLook / 2},
		{"for ever", [2]int{0, 1 << 30}, 50 * time.Millisecond, true, 40 * time.Millisecond},
		{"a command's", [2]int{1 << 30, 1}, time.Hour, false, 0},
		{"no time", [2]int{1 << 30, 1}, 0, true, 0},
	} {
		for _, another := range []bool{false, true} {
			var said strings.Builder
			var steps []string
			var end func()
			if !another {
				end = func() { steps = append(steps, "end") }
			}
			d := Drain{Time: c.time, Waits: c.waits, Log: slog.New(slog.NewTextHandler(&said, nil)), Cores: []Drained{
				{&core{name: "out", open: c.open[0], steps: &steps, cut: errLoop}, "proxied connections were cut"},
				{&core{name: "in", open: c.open[1], steps: &steps}, "gateway connections were cut"},
			}}
			begun := time.Now()
			d.Run(end)
			took := time.Since(begun)
			want := "out linger|in linger|end|out shutdown|in shutdown"
			if another {
				want = strings.Replace(want, "end|", "", 1)
			}
			if got := strings.Join(steps, "|"); got != want {
				t.Errorf("%s: %s, want %s", c.what, got, want)
			}
			if took < c.takes || took > 30*time.Second {
				t.Errorf("%s: it took %s", c.what, took)
			}
			if !strings.Contains(said.String(), "proxied connections were cut") || strings.Contains(said.String(), "gateway") {
				t.Errorf("%s: said %s", c.what, said.String())
			}
		}
	}
}
