// SPDX-License-Identifier: Apache-2.0

package events

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Bounds of what is kept of allowed flows, in destinations: of one workload, of all.
const (
	seenEach = 2048
	seenAll  = 16384
	// seenFor is how long ago a destination must have been seen last to be forgotten,
	// when somebody needs the room; seenSweep bounds how often such are looked for.
	seenFor   = 8 * 24 * time.Hour
	seenSweep = time.Minute
)

// seenTable is where the workloads went that were allowed to: each destination once, with
// the first event, how many there were and when the last one was. The newest events tell
// that only for as long as they are kept. A workload that goes to very many
// destinations has no room for its newest, and takes no other one's.
type seenTable struct {
	mu sync.Mutex
	of map[string]*seenBy
	// recent is what was added last: most flows go where the one before went.
	recent struct {
		workload string
		key      seenKey
		row      *seenRow // nil: look for it
	}
	total  int
	folded int // flows without a place
	swept  time.Time
}

// seenBy is what one workload did.
type seenBy struct {
	at    map[seenKey]*seenRow
	order []seenKey // oldest first
}

// seenKey tells destinations apart: a name with its port, else an address, and what is
// known of the first bytes.
type seenKey struct {
	name      string
	addr      netip.Addr // for no name
	port      uint16
	transport policy.Transport
	proto     string
	verdict   policy.Verdict
	// v6 and private are of the address that a name stands for: which answers are
	// good depends on that.
	v6, private bool
}

type seenRow struct {
	event flow.Event
	count int
	last  time.Time
}

// again counts another flow that is like it.
func (r *seenRow) again(e *flow.Event) {
	r.count++
	r.last = e.Time
}

// add notes an event of a flow that was allowed. It allocates nothing for a destination
// that is known.
func (t *seenTable) add(e *flow.Event) {
	switch {
	case e.Layer == flow.Ingress, e.Kind != flow.Decision && e.Kind != flow.Request && e.Kind != flow.Spoken:
		return
	case e.Kind == flow.Decision && e.Proto == "http": // its requests have the names
		return
	}
	addr := e.Dst.Addr()
	k := seenKey{name: e.Name, port: e.Dst.Port(), transport: e.Transport, proto: e.Proto, verdict: e.Verdict, v6: addr.Is6(), private: addr.IsPrivate()}
	if len(e.Names) > 1 {
		k.name = strings.Join(e.Names, " ")
	}
	if k.name == "" {
		k.addr = addr
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := &t.recent; r.row != nil && r.workload == e.Workload && r.key == k {
		r.row.again(e)
		return
	}
	w := t.of[e.Workload]
	if w == nil {
		w = &seenBy{at: map[seenKey]*seenRow{}}
	}
	if row := w.at[k]; row != nil {
		t.recent.workload, t.recent.key, t.recent.row = e.Workload, k, row
		row.again(e)
		return
	}
	if len(w.at) >= seenEach || t.total >= seenAll && !t.makeRoom(w, e.Time) {
		t.folded++
		return
	}
	t.of[e.Workload] = w
	w.at[k] = &seenRow{event: *e, count: 1, last: e.Time}
	w.order = append(w.order, k)
	t.total++
}

// makeRoom forgets what was seen long ago, else takes the newest destination of the
// workload that has most, unless that is w, or w has nearly as many.
func (t *seenTable) makeRoom(w *seenBy, now time.Time) bool {
	if now.Sub(t.swept) >= seenSweep {
		t.swept = now
		t.forget(now)
	}
	if t.total < seenAll {
		return true
	}
	most := w
	for _, o := range t.of {
		if len(o.at) > len(most.at) {
			most = o
		}
	}
	if len(w.at)+1 >= len(most.at) {
		return false
	}
	last := most.order[len(most.order)-1]
	t.recent.row = nil
	t.folded += most.at[last].count
	delete(most.at, last)
	most.order = most.order[:len(most.order)-1]
	t.total--
	return true
}

// forget drops what was seen last long ago.
func (t *seenTable) forget(now time.Time) {
	t.recent.row = nil
	for name, w := range t.of {
		w.order = slices.DeleteFunc(w.order, func(k seenKey) bool {
			old := now.Sub(w.at[k].last) >= seenFor
			if old {
				delete(w.at, k)
				t.total--
			}
			return old
		})
		if len(w.at) == 0 {
			delete(t.of, name)
		}
	}
}

// list has the first event of each destination, with the times and the count of all.
func (t *seenTable) list() (out []flow.Event, folded int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.of {
		for _, row := range w.at {
			e := row.event
			if row.count > 1 {
				e.First, e.Time, e.Count = e.Time, row.last, row.count
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b flow.Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Name, b.Name), a.Dst.Compare(b.Dst))
	})
	return out, t.folded
}

// Seen is where the workloads went: each destination that was allowed, and each kind of
// denial, once. folded counts the allowed flows to destinations that there was no room
// for; denials of which that is so have flow.TooMany as their Detail.
func (r *Recorder) Seen() (out []flow.Event, folded int) {
	out, folded = r.seen.list()
	return append(out, r.denials.List()...), folded
}
