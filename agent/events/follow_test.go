// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// followed is a client that follows a recorder.
type followed struct {
	instance string
	status   int
	lines    *bufio.Scanner
	leave    func()
}

func follow(t *testing.T, r *Recorder, query string) *followed {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.Follow(w, req, time.Minute) }))
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/?"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	f := &followed{resp.Header.Get(InstanceHeader), resp.StatusCode, bufio.NewScanner(resp.Body), nil}
	f.leave = func() { cancel(); resp.Body.Close(); s.Close() }
	return f
}

// next is the next event, as "KIND NAME NUMBER", with how many are lost.
func (f *followed) next(t *testing.T) string {
	t.Helper()
	if !f.lines.Scan() {
		t.Fatalf("the stream ended: %v", f.lines.Err())
	}
	var e flow.Event
	if err := json.Unmarshal(f.lines.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	if e.Kind == flow.Lost {
		return fmt.Sprintf("lost %d", e.More)
	}
	return fmt.Sprintf("%s %s %d", e.Kind, e.Name, e.Number)
}

// TestFollowAgain: who comes again has what was recorded since, each event once and none
// passed over, however late its time is; what is gone is counted; of another recorder it
// has everything.
func TestFollowAgain(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	record := func(name string, at time.Time) {
		r.Record(&flow.Event{Time: at, Kind: flow.Decision, Workload: "w", Name: name, Allowed: true, Verdict: policy.Direct})
	}
	now := time.Now()
	record("a", now)
	first := follow(t, r, "positions=1&host=a,b,late,new,last")
	for _, want := range []string{"decision a 1", "position  1"} {
		if got := first.next(t); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	record("b", now.Add(time.Second))
	if got := first.next(t); got != "decision b 2" {
		t.Errorf("%q", got)
	}
	first.leave()
	record("late", now.Add(-time.Hour)) // it happened before what was told
	again := "positions=1&host=a,b,late,new,last&instance=" + first.instance + "&after=2"
	second := follow(t, r, again)
	record("new", now)
	for _, want := range []string{"decision late 3", "decision new 4"} {
		if got := second.next(t); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// What is not wanted moves its place all the same.
	for range positionEvery {
		record("other", now)
	}
	if got, want := second.next(t), fmt.Sprintf("position  %d", 4+positionEvery); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	second.leave()

	for range 2 * eventsKept {
		record("other", now)
	}
	record("last", now)
	third := follow(t, r, again)
	if got, want := third.next(t), fmt.Sprintf("lost %d", eventsKept+positionEvery+3); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	third.leave()

	next := NewRecorder(slog.New(slog.DiscardHandler))
	next.Record(&flow.Event{Time: now, Kind: flow.Decision, Workload: "w", Name: "a", Allowed: true})
	other := follow(t, next, again)
	if got := other.next(t); got != "decision a 1" || other.instance == first.instance || other.instance == "" {
		t.Errorf("of another recorder: %q, %q", got, other.instance)
	}
	other.leave()
	bad := follow(t, r, "instance="+first.instance+"&after=x")
	if bad.status != http.StatusBadRequest {
		t.Errorf("a number that is none: %d", bad.status)
	}
	bad.leave()
}
