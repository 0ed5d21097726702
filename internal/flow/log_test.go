// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"testing"

	"github.com/egressd/egressd/policy"
)

func TestLogKeepsTheNewest(t *testing.T) {
	l := NewLog(3)
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		l.Record(Event{Name: name, Kind: Query, Layer: DNS, Reason: policy.ReasonName})
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
	l.Record(Event{Name: "old"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := make(chan string, 4)
	done := make(chan uint64)
	go func() {
		done <- l.Follow(ctx, func(e Event) bool {
			seen <- e.Name
			return e.Name != "last"
		})
	}()
	if got := <-seen; got != "old" {
		t.Fatalf("first event %q, want old", got)
	}
	// Follow registered before it handed out the first event.
	l.Record(Event{Name: "new"})
	l.Record(Event{Name: "last"})
	if got := <-seen; got != "new" {
		t.Errorf("second event %q, want new", got)
	}
	if got := <-seen; got != "last" {
		t.Errorf("third event %q, want last", got)
	}
	if lost := <-done; lost != 0 {
		t.Errorf("lost %d events", lost)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.followers) != 0 {
		t.Errorf("%d followers stay behind", len(l.followers))
	}
}
