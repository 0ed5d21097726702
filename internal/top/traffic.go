// SPDX-License-Identifier: Apache-2.0

// Package top sums up events for people who watch them: by workload, by host, and by
// kind of flow. It is given events and returns rows; it reads no clock, and its memory
// is bounded.
package top

import (
	"container/list"
	"net/netip"
	"strings"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Bounds say how much is told apart: 0 is the default.
type Bounds struct {
	Workloads int // 1,024
	Kinds     int // of flows, of all workloads: 8,192, some KiB each
}

// Judged is what was decided, in short.
type Judged string

// The words: audit is a denial that the audit mode let pass.
const (
	Allow Judged = "allow"
	Audit Judged = "audit"
	Deny  Judged = "deny"
)

// FlowKind says which flows are one row.
type FlowKind struct {
	Workload string
	// Host is the name that the flow is for, or else its address, or what else is known.
	Host      string
	Dst       netip.AddrPort
	UDP       bool
	Command   string
	Interface string
	Method    string // of HTTP requests
	Query     bool   // it is a DNS query
	Judged    Judged
	Verdict   policy.Verdict
	Reason    policy.Reason // of what was denied
}

// kindOf is the kind of an event. The end of a flow is of the kind of its beginning.
func kindOf(e *flow.Event) FlowKind {
	k := FlowKind{
		Workload: e.Workload, Host: e.Name, Dst: e.Dst, UDP: e.Proto == "udp", Command: e.Process.Command,
		Interface: e.Interface, Method: e.Method, Query: e.Kind == flow.Query, Judged: Allow, Verdict: e.Verdict,
	}
	switch {
	case e.WouldDeny:
		k.Judged, k.Reason = Audit, e.Reason
	case !e.Allowed:
		k.Judged, k.Reason = Deny, e.Reason
	}
	if k.Host == "" {
		k.Host = "(unknown)"
		if e.Dst.IsValid() {
			k.Host = e.Dst.Addr().String()
		}
	}
	return k
}

// Traffic has what was seen. When there are more kinds of flows than it may tell
// apart, the one that was seen least recently becomes part of the others of its
// workload; so does such a workload of the other workloads. Sums stay right. Use New.
type Traffic struct {
	bounds Bounds
	kinds  map[FlowKind]*list.Element // of *kind
	// oldest has kinds, workloads their names, least recently seen first.
	oldest, workloads *list.List
	byName            map[string]*workload
	others            rest
	lost              uint64
}

type kind struct {
	FlowKind
	Totals
	last flow.Event // the newest
	of   *workload
}

type workload struct {
	name   string
	place  *list.Element
	kinds  int
	others rest
}

// rest stands for what is not told apart any more.
type rest struct {
	Totals
	folded int // how many it stands for; what came back and was folded again counts twice
}

// New makes a Traffic that has seen nothing.
func New(b Bounds) *Traffic {
	if b.Workloads <= 0 {
		b.Workloads = 1024
	}
	if b.Kinds <= 0 {
		b.Kinds = 8192
	}
	return &Traffic{bounds: b, kinds: map[FlowKind]*list.Element{}, oldest: list.New(), workloads: list.New(), byName: map[string]*workload{}}
}

// Lost is how many events were not told, because they came faster than they were read.
func (t *Traffic) Lost() uint64 { return t.lost }

// Add counts an event. Copies that mirrors got count nowhere, nor do connections of
// HTTP: their requests tell of which hosts they are, and have the bytes.
func (t *Traffic) Add(e flow.Event) {
	connection := e.Kind == flow.Decision || e.Kind == flow.Close
	switch {
	case e.Kind == flow.Lost:
		t.lost += uint64(max(e.More, 0))
		return
	case e.Kind == flow.Mirror, e.Kind == flow.Spoken, connection && e.Proto == "http" && e.Allowed && !e.WouldDeny:
		return
	}
	w := t.workload(e.Workload)
	k := t.kind(kindOf(&e), w)
	k.count(&e)
	if k.last.Kind == "" || e.Kind != flow.Close { // the beginning says more
		k.last = e
	}
	for len(t.kinds) > t.bounds.Kinds {
		t.fold(t.oldest.Front().Value.(*kind))
	}
	for len(t.byName) > t.bounds.Workloads {
		t.foldWorkload(t.byName[t.workloads.Front().Value.(string)])
	}
}

func (t *Traffic) workload(name string) *workload {
	w := t.byName[name]
	if w == nil {
		w = &workload{name: name, place: t.workloads.PushBack(name)}
		t.byName[name] = w
	}
	t.workloads.MoveToBack(w.place)
	return w
}

func (t *Traffic) kind(key FlowKind, w *workload) *kind {
	if place := t.kinds[key]; place != nil {
		t.oldest.MoveToBack(place)
		return place.Value.(*kind)
	}
	k := &kind{FlowKind: key, of: w}
	t.kinds[key] = t.oldest.PushBack(k)
	w.kinds++
	return k
}

// fold makes a kind part of the others of its workload.
func (t *Traffic) fold(k *kind) {
	k.of.others.add(&k.Totals)
	k.of.others.folded++
	k.of.kinds--
	t.oldest.Remove(t.kinds[k.FlowKind])
	delete(t.kinds, k.FlowKind)
}

// foldWorkload makes a workload part of the others.
func (t *Traffic) foldWorkload(w *workload) {
	for place := t.oldest.Front(); place != nil && w.kinds > 0; {
		k := place.Value.(*kind)
		place = place.Next()
		if k.of == w {
			t.fold(k)
		}
	}
	t.others.add(&w.others.Totals)
	t.others.folded++
	t.workloads.Remove(w.place)
	delete(t.byName, w.name)
}

// contains says whether a kind has a text in what is shown of it, in lower case.
func (k *kind) contains(text string) bool {
	for _, s := range []string{k.Workload, k.Host, k.Command, k.Interface, string(k.Judged), k.Verdict.String(), string(k.last.Reason), k.Method} {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	return k.Dst.IsValid() && strings.Contains(k.Dst.String(), text)
}
