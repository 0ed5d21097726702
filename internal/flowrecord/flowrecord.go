// SPDX-License-Identifier: Apache-2.0

// Package flowrecord reads and writes the lines of flow logs: each is one flow.Event as
// JSON, as docs/FLOWS.md has it.
package flowrecord

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Version is that of the lines that are written. Lines of a version have the fields of
// that version and perhaps more, never others in their place; a line without a version
// is one of version 1, which is why none is written.
const Version = 1

// MaxLine is how long a line may be that is read, in bytes. What bounds the fields of an
// event (hostname, path, detail) keeps written lines far below.
const MaxLine = 1 << 20

// Append appends the line of an event, with its end, to b.
func Append(b []byte, e flow.Event) ([]byte, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return b, fmt.Errorf("encode an event: %w", err) // a year of five digits
	}
	return append(append(b, text...), '\n'), nil
}

// Lost is the line that stands for n others, which nobody took.
func Lost(n uint64, now time.Time) []byte {
	b, _ := Append(nil, flow.Event{Time: now, Kind: flow.Lost, More: int(n)}) // fails for no clock
	return b
}

// line is what is read. The fields here are those that must be there; as outer ones
// they take the place of the event's.
type line struct {
	Version int             `json:"version"`
	Time    *time.Time      `json:"time"`
	Kind    *flow.Moment    `json:"kind"`
	Verdict *policy.Verdict `json:"verdict"`
	Allowed *bool           `json:"allowed"`
	flow.Event
}

// Parse reads one line. Fields that are not known are passed over: a later egressd may
// write more of them. A field that is known must have its type, and the line the version
// that is known, else its meaning would be guessed.
func Parse(text []byte) (flow.Event, error) {
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return flow.Event{}, fmt.Errorf("not a line of a flow log: %w", err)
	}
	if l.Version < 0 || l.Version > Version {
		return flow.Event{}, fmt.Errorf("the line has version %d, and this egressd knows version %d: read it with the egressd that wrote it, or a later one", l.Version, Version)
	}
	if l.Time == nil || l.Kind == nil || l.Verdict == nil || l.Allowed == nil {
		return flow.Event{}, errors.New("not a line of a flow log: time, kind, verdict and allowed are in each")
	}
	e := l.Event
	e.Time, e.Kind, e.Verdict, e.Allowed = *l.Time, *l.Kind, *l.Verdict, *l.Allowed
	if e.Time.IsZero() || e.Kind == "" {
		return flow.Event{}, errors.New("not a line of a flow log: time and kind are empty")
	}
	if e.More < 0 || e.Count < 0 || e.BytesSent < 0 || e.BytesReceived < 0 || e.Duration < 0 {
		return flow.Event{}, errors.New("not a line of a flow log: a number is negative")
	}
	e.Transport = transportOf(e.Proto)
	return e, nil
}

// transportOf is the transport that a line's proto goes by. Of a DNS question a line
// does not say it, and nothing is decided by it.
func transportOf(proto string) policy.Transport {
	switch proto {
	case "udp", "dns":
		return policy.UDP
	case "tcp", "tls", "http":
		return policy.TCP
	}
	return 0
}

// Times is how many flows, requests or questions the line of an event stands for.
func Times(e *flow.Event) int { return max(e.More, e.Count, 1) }

// Begin is when the first of what a line stands for came, which is its time when that
// is one thing.
func Begin(e *flow.Event) time.Time {
	switch {
	case !e.First.IsZero():
		return e.First
	case e.More > 0:
		return e.Time.Add(-e.Duration)
	}
	return e.Time
}
