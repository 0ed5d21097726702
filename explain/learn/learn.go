// SPDX-License-Identifier: Apache-2.0

// Package learn makes a policy of flows: the fewest ServiceEntries, and Sidecars where
// workloads differ, that allow what was seen. Names of hosts and processes are data of
// others: each is checked, bounded and escaped before it is written.
package learn

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// Bounds of what is learned.
const (
	// MaxEach is how many destinations (host or address, with a port) of one workload
	// are told apart, MaxAll how many of all workloads.
	MaxEach = 4096
	MaxAll  = 65536
	// maxCommands is how many programs are named for one destination.
	maxCommands = 4
	// maxReasons is how many kinds of flows that no policy can allow are named.
	maxReasons = 32
)

// key is one destination of one workload.
type key struct {
	workload string
	host     string     // "" for an address
	addr     netip.Addr // for no host
	port     uint16
	udp      bool
}

// compare orders keys for output that is stable.
func (k key) compare(o key) int {
	udp := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(k.workload, o.workload), cmp.Compare(k.host, o.host), k.addr.Compare(o.addr),
		cmp.Compare(k.port, o.port), cmp.Compare(udp(k.udp), udp(o.udp)))
}

// row is what was seen of a destination.
type row struct {
	key
	spoken
	count       int
	denied      int // of count: refused, or let pass by audit mode
	first, last time.Time
	commands    []string // sorted
	// shared are names of which one was meant, this host among them.
	shared []string
	// v4 and v6 are addresses that the host stood for, when they are known.
	v4, v6 netip.Addr
	// private says that one of them is of a private network.
	private bool
}

// Learner collects flows. Use New.
type Learner struct {
	since time.Time
	only  string
	rows  map[key]*row
	each  map[string]int
	// folded counts the flows that there was no room for, lost the events that nobody
	// has read.
	folded, lost int
	// asked are names of which an answer was refused, with the last time.
	asked map[string]bool
	// cannot counts flows that no ServiceEntry allows.
	cannot map[string]int
	inside int
	// first and last are the times of what was taken.
	first, last time.Time
}

// New makes a Learner that takes what was seen at since or later (zero: ever), of one
// workload ("": of all).
func New(since time.Time, workload string) *Learner {
	return &Learner{since: since, only: workload, rows: map[key]*row{}, each: map[string]int{}, asked: map[string]bool{}, cannot: map[string]int{}}
}

// Add takes an event.
func (l *Learner) Add(e flow.Event) {
	switch {
	case e.Kind == flow.Lost:
		l.lost += max(e.More, 1)
		return
	case l.only != "" && e.Workload != l.only, !l.since.IsZero() && e.Time.Before(l.since):
		return
	case e.Layer == flow.Ingress, e.Kind == flow.Mirror, e.Kind == flow.Close && !e.Allowed:
		return
	case e.Detail == flow.TooMany:
		l.folded += times(&e)
		return
	case e.Kind == flow.Query:
		l.ask(&e)
		return
	}
	refused := !e.Allowed || e.WouldDeny
	if refused && !learnable(e.Reason) {
		l.refuse(string(e.Reason), times(&e))
		return
	}
	if e.Proto == "http" && e.Kind != flow.Request && !refused {
		return // its requests have the names
	}
	names, ok := hosts(&e)
	if !ok {
		l.refuse("no destination is known", times(&e))
		return
	}
	if len(names) == 0 {
		// What is inside of the cluster is reached without a rule.
		if !refused && e.Rule == nil && e.Dst.Addr().IsPrivate() {
			l.inside++
			return
		}
		l.see(&e, "", nil, refused)
		return
	}
	for _, n := range names {
		l.see(&e, n, names, refused)
	}
}

// times is how many an event stands for; what a flow began with and how it ended is none
// more.
func times(e *flow.Event) int {
	if e.Kind == flow.Close || e.Kind == flow.Spoken {
		return 0
	}
	return flowrecord.Times(e)
}

// refuse counts what cannot be learned.
func (l *Learner) refuse(why string, n int) {
	if _, ok := l.cannot[why]; ok || len(l.cannot) < maxReasons {
		l.cannot[why] += n
	}
}

// ask notes a name that was asked for.
func (l *Learner) ask(e *flow.Event) {
	l.span(e)
	if name, err := hostname.Normalize(e.Name); err == nil && e.Denied() && !technical(name) && len(l.asked) < MaxEach {
		l.asked[name] = true
	}
}

// see counts a flow to a host, or to an address.
func (l *Learner) see(e *flow.Event, host string, names []string, refused bool) {
	k := key{workload: e.Workload, host: host, port: e.Dst.Port(), udp: e.Transport == policy.UDP}
	addr := e.Dst.Addr().Unmap().WithZone("")
	if host == "" {
		k.addr = addr
	}
	r := l.rows[k]
	if r == nil {
		if l.each[k.workload] >= MaxEach || len(l.rows) >= MaxAll {
			l.folded += times(e)
			return
		}
		r = &row{key: k}
		l.rows[k] = r
		l.each[k.workload]++
	}
	l.span(e)
	n := times(e)
	r.count += n
	if refused {
		r.denied += n
	}
	r.first, r.last = earlier(r.first, begin(e)), later(r.last, e.Time)
	r.hear(e, refused)
	if c := e.Process.Command; c != "" {
		if at, has := slices.BinarySearch(r.commands, c); !has {
			r.commands = slices.Insert(r.commands, at, c)
			r.commands = r.commands[:min(len(r.commands), maxCommands)]
		}
	}
	if len(names) > 1 {
		r.shared = append(r.shared, names...)
		slices.Sort(r.shared)
		r.shared = slices.Compact(r.shared)
		r.shared = r.shared[:min(len(r.shared), maxNames)]
	}
	switch {
	case !addr.IsValid():
		return
	case addr.Is4():
		r.v4 = smaller(r.v4, addr)
	default:
		r.v6 = smaller(r.v6, addr)
	}
	r.private = r.private || isPrivate(addr)
}

// smaller is the smaller of two addresses that are valid.
func smaller(a, b netip.Addr) netip.Addr {
	if a.IsValid() && a.Less(b) {
		return a
	}
	return b
}

func (l *Learner) span(e *flow.Event) {
	l.first, l.last = earlier(l.first, begin(e)), later(l.last, e.Time)
}

// begin is when the first came of what an event stands for.
func begin(e *flow.Event) time.Time {
	if e.Kind == flow.Close {
		return e.Time.Add(-e.Duration)
	}
	return flowrecord.Begin(e)
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// sorted are the rows in the order of their keys.
func (l *Learner) sorted() []*row {
	out := make([]*row, 0, len(l.rows))
	for _, r := range l.rows {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *row) int { return a.compare(b.key) })
	return out
}
