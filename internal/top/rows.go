// SPDX-License-Identifier: Apache-2.0

package top

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/flow"
)

// Level is how far somebody has looked into the traffic.
type Level int

// The levels: all workloads, the hosts of one, the kinds of flows to one of these.
const (
	Workloads Level = iota
	Hosts
	Flows
)

// Query says which rows are asked for.
type Query struct {
	Level Level
	// Workload is whose hosts and flows are asked for, Host to which host flows go.
	Workload, Host string
	// Filter keeps what has this text in a name, an address, a process, a verdict or a
	// reason; case does not count.
	Filter string
	Sort   Sort
	// Up has the smallest first.
	Up bool
}

// Sort is what rows are sorted by: the largest first, names by the alphabet.
type Sort string

// The keys.
const (
	ByLast   Sort = "last"
	ByName   Sort = "name"
	ByFlows  Sort = "flows"
	ByDenied Sort = "denied"
	ByBytes  Sort = "bytes"
	ByRate   Sort = "rate"
)

// Sorts are all keys.
var Sorts = []Sort{ByLast, ByName, ByFlows, ByDenied, ByBytes, ByRate}

// TableRow is a line of the table.
type TableRow struct {
	// Name is the workload, the host, or the destination of flows.
	Name string `json:"name"`
	// Verdict is that of all, or "mixed".
	Verdict string `json:"verdict,omitempty"`
	Totals
	EventRate float64 `json:"eventsPerSecond"`
	ByteRate  float64 `json:"bytesPerSecond"`
	// Below is how many hosts a workload has, or kinds of flows go to a host.
	Below int `json:"-"`
	// Folded is, in the row of the others, how many they are.
	Folded int `json:"folded,omitempty"`
	// Newest is, in a row of flows, the newest event.
	Newest *flow.Event `json:"-"`
	// Kind is, in a row of flows, which these are.
	Kind FlowKind `json:"-"`
}

// Rows answers a query. The row of the others, of which nothing is known but sums, is
// the last one, and is there when there are some and nothing is filtered.
func (t *Traffic) Rows(q Query, now time.Time) []TableRow {
	g := group{rows: map[any]*TableRow{}, hosts: map[[2]string]bool{}}
	filter := strings.ToLower(q.Filter)
	if q.Level == Workloads && filter == "" {
		for name := range t.byName {
			g.row(name, name)
		}
	}
	for place := t.oldest.Front(); place != nil; place = place.Next() {
		if k := place.Value.(*kind); q.wants(k) && (filter == "" || k.contains(filter)) {
			g.put(k, q.Level)
		}
	}
	others := t.others
	switch {
	case filter != "":
		others = rest{}
	case q.Level == Workloads:
		for name, w := range t.byName {
			g.rows[name].add(&w.others.Totals)
		}
	default: // of which host they were is forgotten
		others = rest{}
		if w := t.byName[q.Workload]; w != nil && q.Level == Hosts {
			others = w.others
		}
	}
	out := make([]TableRow, 0, len(g.rows)+1)
	for _, r := range g.rows {
		r.EventRate, r.ByteRate = r.Rates(now)
		out = append(out, *r)
	}
	slices.SortFunc(out, q.compare)
	if others.folded > 0 {
		r := TableRow{Name: fmt.Sprintf("(%d others)", others.folded), Totals: others.Totals, Folded: others.folded}
		r.EventRate, r.ByteRate = r.Rates(now)
		out = append(out, r)
	}
	return out
}

// wants says whether a kind is part of what is asked for.
func (q Query) wants(k *kind) bool {
	return q.Level == Workloads || k.Workload == q.Workload && (q.Level == Hosts || k.Host == q.Host)
}

// group makes rows of kinds.
type group struct {
	rows  map[any]*TableRow
	hosts map[[2]string]bool // of workloads
}

func (g *group) row(key any, name string) *TableRow {
	r := g.rows[key]
	if r == nil {
		r = &TableRow{Name: name}
		g.rows[key] = r
	}
	return r
}

func (g *group) put(k *kind, level Level) {
	var r *TableRow
	switch level {
	case Workloads:
		r = g.row(k.Workload, k.Workload)
		host := [2]string{k.Workload, k.Host}
		if !g.hosts[host] {
			g.hosts[host] = true
			r.Below++
		}
	case Hosts:
		r = g.row(k.Host, k.Host)
		r.Below++
	default:
		r = g.row(k.FlowKind, destination(&k.FlowKind))
		last := k.last
		r.Newest, r.Kind = &last, k.FlowKind
	}
	r.add(&k.Totals)
	switch v := word(k); r.Verdict {
	case "", v:
		r.Verdict = v
	default:
		r.Verdict = "mixed"
	}
}

// word is what was decided about a kind.
func word(k *kind) string {
	switch {
	case k.Judged != Allow:
		return string(k.Judged)
	case k.Query:
		return "dns"
	}
	return k.Verdict.String()
}

// destination is what a kind of flows goes to.
func destination(k *FlowKind) string {
	switch {
	case k.Query:
		return "DNS query for " + k.Host
	case !k.Dst.IsValid():
		return k.Method + " " + k.Host
	}
	text := k.Dst.String()
	if k.UDP {
		text += "/udp"
	}
	if k.Method != "" {
		text = k.Method + " " + text
	}
	return text
}

// compare orders rows as the query wants them; equal ones by everything by which they
// may differ, so that rows stay where they are.
func (q Query) compare(a, b TableRow) int {
	c := 0
	switch q.Sort {
	case ByName:
		c = cmp.Compare(a.Name, b.Name)
	case ByFlows:
		c = cmp.Compare(b.Events(), a.Events())
	case ByDenied:
		c = cmp.Compare(b.Denied+b.Audited, a.Denied+a.Audited)
	case ByBytes:
		c = cmp.Compare(b.Bytes(), a.Bytes())
	case ByRate:
		c = cmp.Or(cmp.Compare(b.EventRate, a.EventRate), cmp.Compare(b.ByteRate, a.ByteRate))
	default:
		c = b.Last.Compare(a.Last)
	}
	if q.Up {
		c = -c
	}
	return cmp.Or(c, cmp.Compare(a.Name, b.Name), cmp.Compare(a.Kind.Command, b.Kind.Command), cmp.Compare(a.Kind.Judged, b.Kind.Judged),
		cmp.Compare(a.Kind.Reason, b.Kind.Reason), cmp.Compare(a.Kind.Verdict, b.Kind.Verdict), cmp.Compare(a.Kind.Interface, b.Kind.Interface))
}
