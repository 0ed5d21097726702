// SPDX-License-Identifier: Apache-2.0

package events

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// ServeHTTP writes what was denied, each kind once, and the other events that
// are kept, one JSON object a line. verdict=deny keeps denials (and would-be
// denials) only, workload=NAMESPACE/NAME and namespace=NAMESPACE what is of these,
// since=TIME what came later.
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
	q := req.URL.Query()
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
	verdict, workload, namespace := q.Get("verdict"), q.Get("workload"), q.Get("namespace")
	return func(e flow.Event) bool {
		return !matches(e, verdict) || !isOf(e, workload, namespace) || !since.IsZero() && !e.Time.After(since) || enc.Encode(e) == nil
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

// isOf says whether an event is of a workload, and of a namespace; "": of any.
// What was lost may be.
func isOf(e flow.Event, workload, namespace string) bool {
	if e.Kind == flow.Lost {
		return true
	}
	of, _, described := strings.Cut(e.Workload, "/")
	return (workload == "" || e.Workload == workload) && (namespace == "" || described && of == namespace)
}
