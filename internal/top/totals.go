// SPDX-License-Identifier: Apache-2.0

package top

import (
	"time"

	"github.com/egressd/egressd/internal/flow"
)

// Window is over how many seconds rates are averages.
const Window = 10

// Totals are the numbers of a row.
type Totals struct {
	Flows   uint64 `json:"flows"`   // connections and UDP flows that were allowed
	Denied  uint64 `json:"denied"`  // flows, queries and requests that were denied
	Audited uint64 `json:"audited"` // what would have been denied but for the audit mode
	// Queries and Requests are DNS queries and HTTP requests that were allowed.
	Queries  uint64 `json:"queries"`
	Requests uint64 `json:"requests"`
	// Sent and Received are bytes from and to the workload of what has ended: of HTTP
	// requests their bodies, of other flows everything.
	Sent     uint64    `json:"bytesSent"`
	Received uint64    `json:"bytesReceived"`
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`

	recent [Window]second
}

// second is what happened within a second, of which at says the number since 1970.
type second struct {
	at            int64
	events, bytes uint64
}

// Bytes are all bytes.
func (t *Totals) Bytes() uint64 { return t.Sent + t.Received }

// Events are all that was decided.
func (t *Totals) Events() uint64 {
	return t.Flows + t.Denied + t.Audited + t.Queries + t.Requests
}

// Rates are events and bytes a second, of the last Window seconds.
func (t *Totals) Rates(now time.Time) (events, bytes float64) {
	for _, s := range t.recent {
		if age := now.Unix() - s.at; age >= 0 && age < Window {
			events += float64(s.events)
			bytes += float64(s.bytes)
		}
	}
	return events / Window, bytes / Window
}

// count adds an event.
func (t *Totals) count(e *flow.Event) {
	n := uint64(max(e.Count, e.More, 1))
	var bytes uint64
	switch {
	case e.Kind == flow.Close:
		n = 0
	case e.WouldDeny:
		t.Audited += n
	case !e.Allowed:
		t.Denied += n
	case e.Kind == flow.Query:
		t.Queries += n
	case e.Kind == flow.Request:
		t.Requests += n
	default:
		t.Flows += n
	}
	if e.Kind == flow.Request || e.Kind == flow.Close {
		sent, received := uint64(max(e.BytesSent, 0)), uint64(max(e.BytesReceived, 0))
		t.Sent, t.Received, bytes = t.Sent+sent, t.Received+received, sent+received
	}
	first := e.Time
	if !e.First.IsZero() {
		first = e.First
		n = min(n, 1) // the others were long ago
	}
	t.seen(first, e.Time)
	t.recently(second{e.Time.Unix(), n, bytes})
}

// seen extends the time from the first event to the last.
func (t *Totals) seen(first, last time.Time) {
	if t.First.IsZero() || first.Before(t.First) {
		t.First = first
	}
	if last.After(t.Last) {
		t.Last = last
	}
}

// recently adds to what happened within a second; what is older than what has its
// place is forgotten.
func (t *Totals) recently(s second) {
	if s.events == 0 && s.bytes == 0 {
		return
	}
	slot := &t.recent[uint64(s.at)%Window]
	switch {
	case slot.at == s.at:
		slot.events += s.events
		slot.bytes += s.bytes
	case slot.at < s.at:
		*slot = s
	}
}

// add adds other numbers.
func (t *Totals) add(o *Totals) {
	t.Flows += o.Flows
	t.Denied += o.Denied
	t.Audited += o.Audited
	t.Queries += o.Queries
	t.Requests += o.Requests
	t.Sent += o.Sent
	t.Received += o.Received
	if !o.First.IsZero() {
		t.seen(o.First, o.Last)
	}
	for _, s := range o.recent {
		t.recently(s)
	}
}
