// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

func allowed(workload, name, dst string) flow.Event {
	return flow.Event{
		Time: time.Now(), Kind: flow.Decision, Layer: flow.Kernel, Workload: workload, Transport: policy.TCP, Proto: "tcp",
		Dst: netip.MustParseAddrPort(dst), Name: name, Verdict: policy.Direct, Allowed: true, Reason: policy.ReasonAllowed,
	}
}

// TestSeen: a destination is kept once, however many newer events there are; denials are
// there too, and what is no flow to somewhere is not.
func TestSeen(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	first := allowed("w", "a.example", "192.0.2.1:443")
	r.Record(&first)
	other := allowed("w", "a.example", "192.0.2.2:443") // another address of the name
	other.Time = first.Time.Add(time.Minute)
	r.Record(&other)
	for range eventsKept + 1 {
		r.Record(new(allowed("w", "b.example", "192.0.2.3:443")))
	}
	for _, e := range []flow.Event{
		{Kind: flow.Close, Layer: flow.Kernel, Allowed: true, Name: "close.example"},
		{Kind: flow.Decision, Layer: flow.Egress, Proto: "http", Allowed: true},
		{Kind: flow.Request, Layer: flow.Ingress, Allowed: true, Name: "visitor.example"},
	} {
		r.Record(&e)
	}
	r.Record(&flow.Event{Kind: flow.Decision, Layer: flow.Kernel, Workload: "w", Name: "denied.example", Reason: policy.ReasonNoRule})
	list, folded := r.Seen()
	got := map[string]flow.Event{}
	for _, e := range list {
		got[e.Name] = e
	}
	if a := got["a.example"]; len(list) != 3 || folded != 0 || a.Count != 2 || !a.First.Equal(first.Time) || !a.Time.Equal(other.Time) || got["b.example"].Count != eventsKept+1 {
		t.Errorf("%d, %d folded: %+v", len(list), folded, list)
	}
	if got["denied.example"].Reason != policy.ReasonNoRule {
		t.Errorf("no denial: %+v", list)
	}
}

// TestSeenFlood: workloads that go to very many places take a bounded room, and none of
// that of one which goes to few, before or after them.
func TestSeenFlood(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	r.Record(new(allowed("before", "quiet.example", "192.0.2.1:443")))
	const floods = seenAll/seenEach + 2
	for i := range seenEach + 100 {
		for w := range floods {
			r.Record(new(allowed(fmt.Sprint("flood", w), fmt.Sprint("n", i, ".example"), "192.0.2.1:443")))
		}
	}
	r.Record(new(allowed("after", "quiet.example", "192.0.2.1:443")))
	list, folded := r.Seen()
	quiet := 0
	for _, e := range list {
		if e.Name == "quiet.example" {
			quiet++
		}
	}
	if quiet != 2 || len(list) > seenAll || folded != floods*(seenEach+100)+2-len(list) {
		t.Errorf("%d of 2, %d kept, %d folded", quiet, len(list), folded)
	}
}

// TestSeenLongAgo: what nobody did for days makes room, when that is needed.
func TestSeenLongAgo(t *testing.T) {
	r := NewRecorder(slog.New(slog.DiscardHandler))
	for i := range seenAll {
		e := allowed(fmt.Sprint("gone", i), "old.example", "192.0.2.1:443")
		e.Time = e.Time.Add(-seenFor - time.Hour)
		r.Record(&e)
	}
	r.Record(new(allowed("new", "new.example", "192.0.2.1:443")))
	if list, folded := r.Seen(); len(list) != 1 || list[0].Name != "new.example" || folded != 0 || len(r.seen.of) != 1 {
		t.Errorf("%d, %d folded", len(list), folded)
	}
}
