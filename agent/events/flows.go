// SPDX-License-Identifier: Apache-2.0

package events

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowfilter"
)

// ServeHTTP writes what was denied, each kind once, and the other events that
// are kept, one JSON object a line, as far as the query wants them, which is a
// flowfilter.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if write := eventWriter(w, req); write != nil {
		r.each(write)
	}
}

// Follow is ServeHTTP that goes on until the client leaves. One that does not read
// for the time of wait is left, and finds that its stream ends.
func (r *Recorder) Follow(w http.ResponseWriter, req *http.Request, wait time.Duration) {
	write := eventWriter(w, req)
	if write == nil {
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // it says nothing more
	_ = rc.Flush()                      // the next write finds out
	in := func(e flow.Event) bool {
		began := time.Now()
		_ = rc.SetWriteDeadline(began.Add(wait))
		if write(e) && rc.Flush() == nil {
			return true
		}
		if time.Since(began) >= wait {
			r.dropped.Add(1)
		}
		return false
	}
	// What was counted and not told is in the numbers of the past: told now, to those who
	// follow already, it is not told once more to this one.
	r.denials.Flush(time.Now(), true, r.tell)
	// What comes while the past is written is in both, rather than in none.
	from, reads := r.events.End(), true
	r.each(func(e flow.Event) bool { reads = in(e); return reads })
	if reads {
		r.events.Follow(req.Context(), from, in)
	}
}

// eventWriter writes the events that a request asks for, while it can; nil:
// the request is none, and has been answered.
func eventWriter(w http.ResponseWriter, req *http.Request) func(flow.Event) bool {
	wanted, err := flowfilter.Parse(req.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	return func(e flow.Event) bool { return !wanted.Wants(&e) || enc.Encode(e) == nil }
}
