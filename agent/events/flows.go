// SPDX-License-Identifier: Apache-2.0

package events

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowfilter"
)

// ServeHTTP writes what was denied, each kind once, and the other events that
// are kept, one JSON object a line, as far as the query wants them, which is a
// flowfilter.
func (r *Recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	wanted, err := flowfilter.Parse(req.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc := json.NewEncoder(w)
	r.each(func(e flow.Event) bool { return !wanted.Wants(&e) || enc.Encode(e) == nil })
}

// InstanceHeader is the field of an answer that says whose numbers its events have. A
// follower that comes again names it, as Instance, and the last number that it knows, as
// After: it has what came since then, and is told how much of that is gone. One that says
// Positions has events of the kind flow.Position.
const (
	InstanceHeader = "Egressd-Recorder"
	Instance       = "instance"
	After          = "after"
	Positions      = "positions"
)

// positionEvery is how many events that are not wanted pass before a follower is told how
// far it is: far fewer than are kept, so that they are not taken for lost ones.
const positionEvery = 512

// Follow is ServeHTTP that goes on until the client leaves. One that does not read
// for the time of wait is left, and finds that its stream ends.
func (r *Recorder) Follow(w http.ResponseWriter, req *http.Request, wait time.Duration) {
	q := req.URL.Query()
	wanted, err := flowfilter.Parse(q)
	from, again, badNumber := r.resumes(q)
	if err = cmp.Or(err, badNumber); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	f := follower{r: r, w: w, rc: http.NewResponseController(w), wanted: wanted, wait: wait, positions: q.Has(Positions)}
	f.enc = json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set(InstanceHeader, r.instance)
	_ = f.rc.SetReadDeadline(time.Time{}) // it says nothing more
	_ = f.rc.Flush()                      // the next write finds out
	// What was counted and not told is in the numbers of the past: told now, to those who
	// follow already, it is not told once more to this one.
	r.denials.Flush(time.Now(), true, r.tell)
	reads := true
	if !again {
		// What comes while the past is written is in both, rather than in none.
		from = r.events.End()
		r.each(func(e flow.Event) bool { reads = f.take(e); return reads })
		reads = reads && (!f.positions || f.tellPosition(from))
	}
	if reads {
		r.events.Follow(req.Context(), from, f.take)
	}
}

// resumes says from which number on a follower that comes again reads.
func (r *Recorder) resumes(q url.Values) (from uint64, again bool, err error) {
	if q.Get(Instance) != r.instance {
		return 0, false, nil
	}
	if from, err = strconv.ParseUint(q.Get(After), 10, 64); err != nil {
		return 0, false, fmt.Errorf("%s: %w", After, err)
	}
	return from, true, nil
}

// follower writes events to one client.
type follower struct {
	r         *Recorder
	w         http.ResponseWriter
	rc        *http.ResponseController
	enc       *json.Encoder
	wanted    flowfilter.Filter
	wait      time.Duration
	positions bool
	passed    int // events since the last that was written
}

// take writes an event that is wanted, and says whether the client reads on.
func (f *follower) take(e flow.Event) bool {
	if f.wanted.Wants(&e) {
		return f.write(e)
	}
	if f.passed++; f.positions && e.Number > 0 && f.passed >= positionEvery {
		return f.tellPosition(e.Number)
	}
	return true
}

func (f *follower) tellPosition(number uint64) bool {
	return f.write(flow.Event{Time: time.Now(), Kind: flow.Position, Number: number})
}

func (f *follower) write(e flow.Event) bool {
	f.passed = 0
	began := time.Now()
	_ = f.rc.SetWriteDeadline(began.Add(f.wait))
	if f.enc.Encode(e) == nil && f.rc.Flush() == nil {
		return true
	}
	if time.Since(began) >= f.wait {
		f.r.dropped.Add(1)
	}
	return false
}
