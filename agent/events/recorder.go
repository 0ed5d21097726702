// SPDX-License-Identifier: Apache-2.0

// Package events keeps what was decided: for the log, for those who follow or look
// back, and for sums of what was denied.
package events

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
)

// eventsKept is how many events "egressd flows" can look back on, beside what
// was denied.
const eventsKept = 8192

// Recorder keeps events: what was denied in one table, which the log, the
// flows, the summary of exec and suggestions are read from; and all of them as
// they come, for who follows. Of many denials of a kind it tells the first, and
// how many more there were.
type Recorder struct {
	events  *flow.Log
	denials *flow.DenialTable
	seen    seenTable
	lines   *flow.Lines
	log     *slog.Logger
	// also is told of denials, all of every event; nil: nobody.
	also, all flow.Sink
	// dropped counts the followers that did not read.
	dropped atomic.Uint64
	// instance tells this recorder from that of another daemon, whose numbers mean
	// other events.
	instance string
}

// NewRecorder makes one that writes denials to a log.
func NewRecorder(log *slog.Logger) *Recorder {
	return &Recorder{events: flow.NewLog(eventsKept), seen: seenTable{of: map[string]*seenBy{}}, denials: flow.NewDenials(), lines: flow.NewLines(), log: log, instance: rand.Text()}
}

// Tell has somebody else told of denials, as the log is: the first of each kind, and
// how many more there were. It is for before the first Record.
func (r *Recorder) Tell(s flow.Sink) { r.also = s }

// TellAll has somebody told of every event as it comes: of denials as Tell has it. It is
// for before the first Record.
func (r *Recorder) TellAll(s flow.Sink) { r.all = s }

// Record implements flow.Sink.
func (r *Recorder) Record(e *flow.Event) {
	if e.Denied() {
		r.Denied(flow.KeyOf(e), func() flow.Event { return *e })
		return
	}
	r.seen.add(e)
	r.keep(e)
}

// keep keeps an event for those who look back, and tells it.
func (r *Recorder) keep(e *flow.Event) {
	r.events.Record(e)
	if r.all != nil {
		r.all.Record(e)
	}
}

// Denied records a denial by its kind; full makes the event of it if it is to be told.
func (r *Recorder) Denied(k flow.Key, full func() flow.Event) {
	if e, now := r.denials.Add(k, time.Now(), full); now {
		r.tell(e)
	}
}

// Flush tells what was counted for long enough, or everything.
func (r *Recorder) Flush(all bool) {
	now := time.Now()
	r.denials.Flush(now, all, r.tell)
	for _, s := range r.lines.Due(now, all) {
		r.log.Info("denials were not logged one by one, to keep the log small; \"egressd flows\" shows them", "workload", s.Workload,
			"suppressed", s.Count, "within", s.Within.Round(time.Second))
	}
}

// each calls f for what was denied, each kind once, and for the other events
// that are kept, by time, until f returns false.
func (r *Recorder) each(f func(flow.Event) bool) {
	denials := r.denials.List()
	more := true
	until := func(t time.Time) {
		for more && len(denials) > 0 && (t.IsZero() || !denials[0].Time.After(t)) {
			more, denials = f(denials[0]), denials[1:]
		}
	}
	r.events.Each(func(e flow.Event) bool {
		if e.Denied() {
			return more // it is in the table
		}
		if until(e.Time); more {
			more = f(e)
		}
		return more
	})
	until(time.Time{})
}

// tell gives a denial to those who follow, and writes it to the log unless its
// workload has many lines there.
func (r *Recorder) tell(e flow.Event) {
	r.keep(&e)
	if r.also != nil {
		r.also.Record(&e)
	}
	if !r.lines.Allow(&e, time.Now()) {
		return
	}
	msg := "denied"
	if e.WouldDeny {
		msg = "would be denied"
	}
	if e.More > 0 {
		msg += " again"
	}
	attrs := []slog.Attr{
		slog.String("layer", string(e.Layer)), slog.String("reason", string(e.Reason)),
		slog.String("workload", e.Workload), slog.Int("pid", e.Process.PID),
		slog.String("command", e.Process.Command), slog.String("proto", e.Proto),
	}
	if e.Interface != "" {
		attrs = append(attrs, slog.String("interface", e.Interface))
	}
	if e.Name != "" {
		attrs = append(attrs, slog.String("name", e.Name))
	}
	if e.Dst.IsValid() {
		attrs = append(attrs, slog.String("dst", e.Dst.String()))
	}
	if e.Socket != "" {
		attrs = append(attrs, slog.String("dst", "unix:"+e.Socket))
	}
	if e.Rule != nil {
		attrs = append(attrs, slog.String("nearest_rule", e.Rule.String()))
	}
	if e.More > 0 {
		attrs = append(attrs, slog.Int("more", e.More), slog.Duration("within", e.Duration.Round(time.Second)))
	}
	if e.Detail != "" {
		attrs = append(attrs, slog.String("detail", e.Detail))
	}
	if item := explain.AllowItem(&e); item != "" {
		attrs = append(attrs, slog.String("allow", item))
	}
	r.log.LogAttrs(context.Background(), slog.LevelInfo, msg, attrs...)
}

// Denials lists what was denied, each kind once.
func (r *Recorder) Denials() []flow.Event { return r.denials.List() }

// Stats say how full the table of denials is.
func (r *Recorder) Stats() flow.DenialStats { return r.denials.Stats() }

// Counts are how many events there were, by what they said.
func (r *Recorder) Counts() map[flow.CountKey]uint64 { return r.events.Counts() }

// Dropped is how many followers did not read, and were left.
func (r *Recorder) Dropped() uint64 { return r.dropped.Load() }
