// SPDX-License-Identifier: Apache-2.0

package top

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func event(kind flow.Moment, workload, name, dst string, change ...func(*flow.Event)) flow.Event {
	e := flow.Event{
		Time: noon, Kind: kind, Layer: flow.Kernel, Workload: workload, Name: name, Proto: "tcp", Allowed: true,
		Verdict: policy.Direct, Reason: policy.ReasonAllowed, Process: flow.Process{PID: 7, Command: "curl"},
	}
	if dst != "" {
		e.Dst = netip.MustParseAddrPort(dst)
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func denied(e *flow.Event) { e.Allowed, e.Verdict, e.Reason = false, policy.Deny, policy.ReasonNoRule }
func audited(e *flow.Event) {
	e.WouldDeny, e.Verdict, e.Reason = true, policy.Direct, policy.ReasonNoRule
}
func bytes(sent, received int64) func(*flow.Event) {
	return func(e *flow.Event) { e.BytesSent, e.BytesReceived = sent, received }
}

// sums are numbers in a short form.
func sums(t Totals) string {
	return fmt.Sprintf("flows %d denied %d audited %d queries %d requests %d bytes %d/%d", t.Flows, t.Denied, t.Audited, t.Queries, t.Requests, t.Sent, t.Received)
}

func TestCount(t *testing.T) {
	const dst = "192.0.2.1:443"
	for _, c := range []struct {
		name    string
		events  []flow.Event
		want    string
		verdict string
	}{
		{"a flow and its end", []flow.Event{event(flow.Decision, "w", "a.example", dst), event(flow.Close, "w", "a.example", dst, bytes(10, 20))},
			"flows 1 denied 0 audited 0 queries 0 requests 0 bytes 10/20", "direct"},
		{"a denial that stands for more", []flow.Event{event(flow.Decision, "w", "a.example", dst, denied), event(flow.Decision, "w", "a.example", dst, denied, func(e *flow.Event) { e.More = 4 })},
			"flows 0 denied 5 audited 0 queries 0 requests 0 bytes 0/0", "deny"},
		{"all denials of a kind", []flow.Event{event(flow.Decision, "w", "a.example", dst, denied, func(e *flow.Event) { e.Count, e.First = 9, noon.Add(-time.Hour) })},
			"flows 0 denied 9 audited 0 queries 0 requests 0 bytes 0/0", "deny"},
		{"audit", []flow.Event{event(flow.Decision, "w", "a.example", dst, audited), event(flow.Close, "w", "a.example", dst, audited, bytes(1, 2))},
			"flows 0 denied 0 audited 1 queries 0 requests 0 bytes 1/2", "audit"},
		{"both", []flow.Event{event(flow.Decision, "w", "a.example", dst), event(flow.Decision, "w", "a.example", dst, denied)},
			"flows 1 denied 1 audited 0 queries 0 requests 0 bytes 0/0", "mixed"},
		{"a query", []flow.Event{event(flow.Query, "w", "a.example", "")}, "flows 0 denied 0 audited 0 queries 1 requests 0 bytes 0/0", "dns"},
		{"HTTP is counted by its requests", []flow.Event{
			event(flow.Decision, "w", "", dst, func(e *flow.Event) { e.Proto = "http" }),
			event(flow.Request, "w", "a.example", dst, bytes(3, 4), func(e *flow.Event) { e.Proto, e.Method, e.Verdict = "http", "GET", policy.Proxy }),
			event(flow.Close, "w", "", dst, bytes(300, 400), func(e *flow.Event) { e.Proto = "http" }),
			event(flow.Mirror, "w", "copy.example", dst, bytes(3, 4), func(e *flow.Event) { e.Proto, e.Method = "http", "GET" }),
		}, "flows 0 denied 0 audited 0 queries 0 requests 1 bytes 3/4", "proxy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := New(Bounds{})
			for _, e := range c.events {
				tr.Add(e)
			}
			rows := tr.Rows(Query{Level: Hosts, Workload: "w"}, noon)
			if len(rows) != 1 || rows[0].Name != "a.example" || sums(rows[0].Totals) != c.want || rows[0].Verdict != c.verdict {
				t.Errorf("%+v, want %s, %s", rows, c.want, c.verdict)
			}
			if w := tr.Rows(Query{}, noon); len(w) != 1 || sums(w[0].Totals) != c.want || w[0].Below != 1 {
				t.Errorf("of the workload: %+v", w)
			}
		})
	}
}

func TestLost(t *testing.T) {
	tr := New(Bounds{})
	tr.Add(flow.Event{Kind: flow.Lost, More: 12})
	if tr.Lost() != 12 || len(tr.Rows(Query{}, noon)) != 0 {
		t.Errorf("%d lost, rows %v", tr.Lost(), tr.Rows(Query{}, noon))
	}
}

func TestRates(t *testing.T) {
	tr := New(Bounds{})
	for i := range 20 { // one a second, with 100 bytes
		at := func(e *flow.Event) { e.Time = noon.Add(time.Duration(i) * time.Second) }
		tr.Add(event(flow.Request, "w", "a.example", "192.0.2.1:80", bytes(40, 60), at))
	}
	// What is long ago is no rate, however many there were.
	tr.Add(event(flow.Decision, "w", "b.example", "192.0.2.2:80", denied, func(e *flow.Event) { e.Count, e.First = 1000, noon.Add(-time.Hour) }))
	for _, c := range []struct {
		after         time.Duration
		events, bytes float64
	}{{19 * time.Second, 1, 100}, {24 * time.Second, 0.5, 50}, {60 * time.Second, 0, 0}} {
		r := tr.Rows(Query{}, noon.Add(c.after))[0]
		if r.EventRate != c.events || r.ByteRate != c.bytes {
			t.Errorf("after %s: %v events and %v bytes a second, want %v and %v", c.after, r.EventRate, r.ByteRate, c.events, c.bytes)
		}
	}
}

func TestSortAndFilter(t *testing.T) {
	tr := New(Bounds{})
	add := func(second int, name string, change ...func(*flow.Event)) {
		e := event(flow.Request, "shop/web", name, "192.0.2.1:80", change...)
		e.Time = noon.Add(time.Duration(second) * time.Second)
		tr.Add(e)
	}
	add(1, "many.example")
	add(2, "many.example")
	add(3, "large.example", bytes(1000, 0))
	add(4, "bad.example", denied)
	add(5, "late.example", func(e *flow.Event) { e.Process.Command = "Wget" })
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{}, "late bad large many"},
		{Query{Up: true}, "many large bad late"},
		{Query{Sort: ByName}, "bad large late many"},
		{Query{Sort: ByFlows}, "many bad large late"},
		{Query{Sort: ByDenied}, "bad large late many"},
		{Query{Sort: ByBytes}, "large bad late many"},
		{Query{Sort: ByRate}, "many large bad late"},
		{Query{Filter: "wGET"}, "late"},
		{Query{Filter: "no-rule"}, "bad"},
		{Query{Filter: "deny"}, "bad"},
		{Query{Filter: "M"}, "late bad large many"},
		{Query{Filter: "192.0.2.1:80"}, "late bad large many"},
		{Query{Filter: "nobody"}, ""},
	} {
		q := c.q
		q.Level, q.Workload = Hosts, "shop/web"
		var names []string
		for _, r := range tr.Rows(q, noon.Add(5*time.Second)) {
			names = append(names, strings.TrimSuffix(r.Name, ".example"))
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.q, got, c.want)
		}
	}
}

// naive has every event that counts, of which the oldest kinds and workloads are
// marked as folded.
type naive struct {
	events []flow.Event
	kinds  []FlowKind // told apart, least recently seen first
	names  []string   // of workloads, likewise
	// folded and gone are how many kinds of a workload, and workloads, are not any more.
	folded map[string]int
	gone   int
	where  []string // of each event: "kind", "workload" (its others) or "others"
}

func (n *naive) add(e flow.Event, b Bounds) {
	k := kindOf(&e)
	n.events, n.where = append(n.events, e), append(n.where, "kind")
	n.kinds = append(slices.DeleteFunc(n.kinds, func(o FlowKind) bool { return o == k }), k)
	n.names = append(slices.DeleteFunc(n.names, func(o string) bool { return o == k.Workload }), k.Workload)
	if len(n.kinds) > b.Kinds {
		old := n.kinds[0]
		n.kinds = n.kinds[1:]
		n.folded[old.Workload]++
		for i, e := range n.events {
			if kindOf(&e) == old && n.where[i] == "kind" {
				n.where[i] = "workload"
			}
		}
	}
	if len(n.names) > b.Workloads {
		old := n.names[0]
		n.names = n.names[1:]
		n.gone++
		delete(n.folded, old)
		n.kinds = slices.DeleteFunc(n.kinds, func(k FlowKind) bool { return k.Workload == old })
		for i, e := range n.events {
			if e.Workload == old {
				n.where[i] = "others"
			}
		}
	}
}

// rows are the rows that a query should have, as text.
func (n *naive) rows(q Query) map[string]string {
	totals := map[string]*Totals{}
	put := func(name string, e flow.Event) {
		if totals[name] == nil {
			totals[name] = &Totals{}
		}
		totals[name].count(&e)
	}
	for i, e := range n.events {
		k := kindOf(&e)
		switch {
		case q.Level == Workloads && n.where[i] == "others":
			put(fmt.Sprintf("(%d others)", n.gone), e)
		case n.where[i] == "others":
		case q.Level == Workloads:
			put(e.Workload, e)
		case e.Workload != q.Workload:
		case q.Level == Hosts && n.where[i] == "workload":
			put(fmt.Sprintf("(%d others)", n.folded[e.Workload]), e)
		case q.Level == Hosts:
			put(k.Host, e)
		case k.Host == q.Host && n.where[i] == "kind":
			put(fmt.Sprint(k), e)
		}
	}
	out := map[string]string{}
	for name, t := range totals {
		out[name] = sums(*t) + t.First.String() + t.Last.String()
	}
	return out
}

// TestAgainstNaive: random events, and rows that are those of a slow and simple way to
// count, at all levels and whatever the bounds.
func TestAgainstNaive(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		b := Bounds{Workloads: 1 + rnd.IntN(6), Kinds: 1 + rnd.IntN(20)}
		tr, slow := New(b), &naive{folded: map[string]int{}}
		for i := range 200 {
			e := event([]flow.Moment{flow.Decision, flow.Close, flow.Request, flow.Query}[rnd.IntN(4)], fmt.Sprint("w", rnd.IntN(8)),
				[]string{"", "a.example", "b.example"}[rnd.IntN(3)], fmt.Sprintf("192.0.2.%d:%d", rnd.IntN(3), 80+rnd.IntN(2)),
				[]func(*flow.Event){func(*flow.Event) {}, denied, audited}[rnd.IntN(3)], bytes(rnd.Int64N(100)-5, rnd.Int64N(100)))
			e.Time = noon.Add(time.Duration(i) * time.Second)
			e.More = rnd.IntN(4)
			tr.Add(e)
			slow.add(e, b)
			if len(tr.kinds) > b.Kinds || tr.oldest.Len() != len(tr.kinds) || len(tr.byName) > b.Workloads || tr.workloads.Len() != len(tr.byName) {
				t.Fatalf("seed %d: %d kinds, %d workloads, with bounds %+v", seed, len(tr.kinds), len(tr.byName), b)
			}
		}
		queries := []Query{{}}
		for w := range 8 {
			name := fmt.Sprint("w", w)
			queries = append(queries, Query{Level: Hosts, Workload: name}, Query{Level: Flows, Workload: name, Host: "a.example"}, Query{Level: Flows, Workload: name, Host: "192.0.2.1"})
		}
		for _, q := range queries {
			got := map[string]string{}
			for _, r := range tr.Rows(q, noon) {
				name := r.Name
				if q.Level == Flows {
					name = fmt.Sprint(r.Kind)
				}
				got[name] = sums(r.Totals) + r.First.String() + r.Last.String()
			}
			if want := slow.rows(q); !maps.Equal(got, want) {
				t.Fatalf("seed %d, bounds %+v, %+v:\ngot  %v\nwant %v", seed, b, q, got, want)
			}
		}
	}
}
