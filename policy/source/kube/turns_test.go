// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns: so many are read at once, and one that hangs does not hold up the others.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns, began := newTurns(), time.Now()
		took := make(chan func(), 10)
		for range turnsAtOnce + 2 {
			go func() {
				done, err := turns.take(t.Context())
				if err != nil {
					t.Error(err)
				}
				took <- done
			}()
		}
		synctest.Wait()
		if n := len(took); n != turnsAtOnce {
			t.Fatalf("%d are read at once", n)
		}
		first := <-took
		first()
		synctest.Wait()
		if n := len(took); n != turnsAtOnce || time.Since(began) != 0 {
			t.Fatalf("%d are read after one has ended, at %v", n, time.Since(began))
		}
		first() // does nothing
		time.Sleep(turnLongest - time.Nanosecond)
		synctest.Wait()
		if n := len(took); n != turnsAtOnce {
			t.Fatalf("%d are read", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := len(took); n != turnsAtOnce+1 {
			t.Errorf("%d were read after those that hang have had their time", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		turns.refused(time.Hour)
		cancel()
		if _, err := turns.take(ctx); err == nil {
			t.Error("a turn after the end")
		}
		time.Sleep(turnLongest) // or the timers of the last turns would be left
	})
}

// TestPauses: who is refused waits, as long as he was asked to, longer each time, and
// never as long as others do; an answer ends that.
func TestPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		waited := func() time.Duration {
			t.Helper()
			began := time.Now()
			done, err := turns.take(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			done()
			return time.Since(began)
		}
		if d := waited(); d != 0 {
			t.Errorf("nobody was refused, and %v pass", d)
		}
		for n, want := range []time.Duration{retryFirst, 2 * retryFirst, 4 * retryFirst, 8 * retryFirst, 16 * retryFirst, pauseMost, pauseMost, pauseMost} {
			turns.refused(0)
			turns.refused(0) // at once: it counts as one
			if d := waited(); d < want || d >= 2*want {
				t.Errorf("refusal %d: %v pass, want %v to twice that", n+1, d, want)
			}
		}
		turns.answered()
		turns.refused(0)
		if d := waited(); d >= 2*retryFirst {
			t.Errorf("an answer has not ended it: %v", d)
		}
		turns.answered()
		const asked = 20 * time.Second
		all := map[time.Duration]bool{}
		for range 20 {
			turns.refused(asked)
			d := waited()
			if d < asked || d >= 2*asked {
				t.Errorf("asked to wait %v: %v pass", asked, d)
			}
			all[d] = true
		}
		if len(all) < 10 {
			t.Errorf("all wait for the same time: %v", all)
		}
		turns.refused(asked)
		turns.answered()
		if d := waited(); d != 0 {
			t.Errorf("after an answer %v pass", d)
		}
		time.Sleep(turnLongest)
	})
}

// TestPause: a change waits for others of its kind, and while there are many for half
// of the time; one that comes alone does not wait for what those before took.
func TestPause(t *testing.T) {
	const took = 100 * time.Millisecond
	for _, tt := range []struct{ took, ago, want time.Duration }{
		{0, 0, debounce}, {took, 0, took}, {took, took / 4, took * 3 / 4}, {took, took, debounce}, {took, time.Hour, debounce}, {time.Minute, time.Second, patience},
	} {
		if got := pause(tt.took, tt.ago); got != tt.want {
			t.Errorf("after one of %v, %v ago: %v, want %v", tt.took, tt.ago, got, tt.want)
		}
	}
}
