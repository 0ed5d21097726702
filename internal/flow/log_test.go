// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/egressd/egressd/policy"
)

func TestLogKeepsTheNewest(t *testing.T) {
	l := NewLog(3)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		l.Record(&Event{Name: name, Kind: Query, Layer: DNS, Reason: policy.ReasonName})
	}
	var got string
	for _, e := range l.Recent() {
		got += e.Name
	}
	if got != "cde" {
		t.Errorf("kept %q, want the newest three in order", got)
	}
	k := CountKey{Layer: DNS, Kind: Query, Reason: policy.ReasonName}
	if n := l.Counts()[k]; n != 5 {
		t.Errorf("counted %d, want 5", n)
	}
}

func TestFollowSeesOldAndNewOnce(t *testing.T) {
	l := NewLog(8)
	l.Record(&Event{Name: "old"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan string, 4)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Follow(ctx, 0, func(e Event) bool {
			seen <- e.Name
			return e.Name != "last"
		})
	}()
	if got := <-seen; got != "old" {
		t.Fatalf("first event %q, want old", got)
	}
	// Follow registered before it handed out the first event.
	l.Record(&Event{Name: "new"})
	l.Record(&Event{Name: "last"})
	if got := <-seen; got != "new" {
		t.Errorf("second event %q, want new", got)
	}
	if got := <-seen; got != "last" {
		t.Errorf("third event %q, want last", got)
	}
	<-done
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.followers) != 0 {
		t.Errorf("%d followers stay behind", len(l.followers))
	}
}

// names lists the kept events.
func names(l *Log) []string {
	var out []string
	l.Each(func(e Event) bool { out = append(out, e.Name); return true })
	return out
}

// TestLogIsShared: who floods the log pushes out nobody else's events, and
// nobody's denials with what was allowed; who is alone has all of it.
func TestLogIsShared(t *testing.T) {
	l := NewLog(100)
	for i := range 3 {
		l.Record(&Event{Workload: "quiet", Name: fmt.Sprint("denied", i)})
		l.Record(&Event{Workload: "quiet", Allowed: true, Name: fmt.Sprint("allowed", i)})
		l.Record(&Event{Workload: "loud", Allowed: true, Name: fmt.Sprint("loud", i)})
	}
	for i := range 1000 {
		l.Record(&Event{Workload: "loud", Name: fmt.Sprint(i)})
	}
	got := names(l)
	want := []string{"denied0", "allowed0", "loud0", "denied1", "allowed1", "loud1", "denied2", "allowed2", "loud2"}
	if len(got) != 100 || !slices.Equal(got[:9], want) || got[9] != "909" || got[99] != "999" {
		t.Errorf("kept %v", got)
	}
	// A second one that floods gets its half.
	for i := range 1000 {
		l.Record(&Event{Workload: "second", Name: fmt.Sprint("second", i)})
	}
	count := map[string]int{}
	l.Each(func(e Event) bool { count[fmt.Sprint(e.Workload, e.Allowed)]++; return true })
	if count["loudfalse"] < 40 || count["secondfalse"] < 20 || count["quietfalse"] != 3 || count["quiettrue"] != 3 || count["loudtrue"] != 3 {
		t.Errorf("kept %v", count)
	}
	if len(l.kept) > 200 || l.live != 100 {
		t.Errorf("%d slots, %d live", len(l.kept), l.live)
	}
	// More workloads than room: bounded all the same.
	for i := range 1000 {
		l.Record(&Event{Workload: fmt.Sprint(i)})
	}
	if l.live != 100 || len(l.shares) > 100 {
		t.Errorf("%d live of %d", l.live, len(l.shares))
	}
}

// TestSlowReader: who reads slowly holds no copy and keeps nobody waiting.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLog(1000)
		for i := range 1000 {
			l.Record(&Event{Name: fmt.Sprint(i)})
		}
		var got []string
		l.Each(func(e Event) bool {
			got = append(got, e.Name)
			for range 100 {
				l.Record(&Event{Name: "new"})
			}
			return true
		})
		// What it had not read when it was pushed out is missing; it ends.
		if len(got) < batch || len(got) > 1000 || got[0] != "0" {
			t.Errorf("%d events", len(got))
		}
		ctx, cancel := context.WithCancel(t.Context())
		follows := make(chan Event)
		go l.Follow(ctx, 0, func(e Event) bool { follows <- e; return ctx.Err() == nil })
		<-follows
		for range 5000 {
			l.Record(&Event{Name: "flood"})
		}
		synctest.Wait() // it stands still, and Record did not
		cancel()
		<-follows
	})
}

// TestLogReuses: a log that is full keeps an event where the one was that it pushes
// out, and who has read that one still has it.
func TestLogReuses(t *testing.T) {
	l := NewLog(4)
	for i := range 8 {
		l.Record(&Event{Name: fmt.Sprint(i), Allowed: true})
	}
	read := l.Recent()
	e := Event{Name: "later", Allowed: true}
	if n := testing.AllocsPerRun(1000, func() { l.Record(&e) }); n > 0 {
		t.Errorf("an event allocates %v times", n)
	}
	for i, e := range read {
		if e.Name != fmt.Sprint(i+4) {
			t.Errorf("what was read has become %q", e.Name)
		}
	}
	if got := names(l); !slices.Equal(got, []string{"later", "later", "later", "later"}) {
		t.Errorf("kept %q", got)
	}
}
