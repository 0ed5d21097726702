// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// serveFlows writes what was denied, each kind once, and the other events that
// are kept, one JSON object a line. verdict=deny keeps denials (and would-be
// denials) only, since=TIME what came later.
func (a *Agent) serveFlows(w http.ResponseWriter, r *http.Request) {
	if write := eventWriter(w, r); write != nil {
		a.recorder.each(write)
	}
}

// followFlows is serveFlows that goes on until the client leaves. One that does
// not read is left, and finds that its stream ends.
func (a *Agent) followFlows(w http.ResponseWriter, r *http.Request) {
	write := eventWriter(w, r)
	if write == nil {
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // it says nothing more
	_ = rc.Flush()                      // the next write finds out
	in := func(e flow.Event) bool {
		began := time.Now()
		_ = rc.SetWriteDeadline(began.Add(writeWait))
		if write(e) && rc.Flush() == nil {
			return true
		}
		if time.Since(began) >= writeWait {
			a.dropped.Add(1)
		}
		return false
	}
	// What comes while the past is written is in both, rather than in none.
	from, reads := a.recorder.events.End(), true
	a.recorder.each(func(e flow.Event) bool { reads = in(e); return reads })
	if reads {
		a.recorder.events.Follow(r.Context(), from, in)
	}
}

// eventWriter writes the events that a request asks for, while it can; nil:
// the request is none, and has been answered.
func eventWriter(w http.ResponseWriter, r *http.Request) func(flow.Event) bool {
	q := r.URL.Query()
	var since time.Time
	if text := q.Get("since"); text != "" {
		var err error
		if since, err = time.Parse(time.RFC3339Nano, text); err != nil {
			http.Error(w, fmt.Sprintf("since: %v", err), http.StatusBadRequest)
			return nil
		}
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	keep := q.Get("verdict")
	return func(e flow.Event) bool {
		return !matches(e, keep) || !since.IsZero() && !e.Time.After(since) || enc.Encode(e) == nil
	}
}

// matches says whether an event has the verdict that was asked for.
func matches(e flow.Event, verdict string) bool {
	switch {
	case verdict == "" || e.Kind == flow.Lost:
		return true
	case verdict == policy.Deny.String():
		return !e.Allowed || e.WouldDeny
	}
	return e.Allowed && e.Verdict.String() == verdict
}
