// SPDX-License-Identifier: Apache-2.0

// Package replay says which flows that were recorded another policy would decide in
// another way: it asks explain about each, and decides nothing by itself.
package replay

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/policy"
)

// MaxFlows is how many flows are told apart.
const MaxFlows = 200_000

// ChangeKind is what a policy makes of a flow.
type ChangeKind string

// The kinds.
const (
	Denied    ChangeKind = "denied"    // it was allowed
	Allowed   ChangeKind = "allowed"   // it was denied, or would have been but for the audit mode
	Otherwise ChangeKind = "otherwise" // it is allowed as it was, and goes another way
)

// Treatment is what a policy does with a flow.
type Treatment struct {
	Allowed bool           `json:"allowed"`
	Verdict policy.Verdict `json:"verdict"`
	Reason  policy.Reason  `json:"reason"`
	Rule    string         `json:"rule,omitempty"` // KIND NAMESPACE/NAME
	// Way is how a request, or what the proxy passes unread, went or may go; of Now the
	// first way that is allowed.
	Way RouteWay `json:"way,omitzero"`
}

// FlowChange is a flow that is decided in another way.
type FlowChange struct {
	Kind ChangeKind `json:"kind"`
	// Workload and Host are as in the recorded lines; Host is an address where no name
	// is known.
	Workload string `json:"workload"`
	Host     string `json:"host"`
	// Target is what was asked about, as explain takes it; a DNS question is a name.
	Target string `json:"target"`
	Method string `json:"method,omitempty"`
	// Count is how often it was recorded, from First to Last.
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Was   Treatment `json:"was"`
	Now   Treatment `json:"now"`
	// Says is a sentence about it. Steps lead to Now.
	Says  string   `json:"says"`
	Steps []string `json:"steps,omitempty"`
	// Allow is what --allow would name to allow what is denied now.
	Allow string `json:"allow,omitempty"`
	// Lacks are what the recorded lines do not say and Now may depend on.
	Lacks []string `json:"lacks,omitempty"`
}

// Unasked is a flow that the policy could not be asked about.
type Unasked struct {
	Workload string `json:"workload"`
	Host     string `json:"host"`
	Count    int    `json:"count"`
	Why      string `json:"why"`
}

// Outcomes are what a replay found.
type Outcomes struct {
	// Changes are sorted by workload, host and kind, those that are denied first.
	Changes []FlowChange `json:"changes"`
	// Flows is how many different flows were asked about, Same how many of these are
	// decided as before.
	Flows   int       `json:"flows"`
	Same    int       `json:"same"`
	Unasked []Unasked `json:"unasked,omitempty"`
	// Missing is how many events the log says are missing, Overflow how many were of
	// more flows than MaxFlows, which were not asked about.
	Missing  int `json:"missing,omitempty"`
	Overflow int `json:"overflow,omitempty"`
	// Undescribed are workloads that were recorded under a name which the policy does
	// not describe; they were asked about as processes that nobody describes.
	Undescribed []string `json:"undescribed,omitempty"`
}

// Count is how many changes there are of a kind.
func (o *Outcomes) Count(k ChangeKind) int {
	n := 0
	for _, c := range o.Changes {
		if c.Kind == k {
			n++
		}
	}
	return n
}

// Flows collects recorded flows. The zero value is ready.
type Flows struct {
	all      map[asked]*recorded
	unasked  map[Unasked]int
	missing  int
	overflow int
}

// recorded is a flow, with all lines about it.
type recorded struct {
	event       flow.Event // one of them
	count       int
	first, last time.Time
}

// Add takes an event of a log.
func (f *Flows) Add(e *flow.Event) {
	if f.all == nil {
		f.all, f.unasked = map[asked]*recorded{}, map[Unasked]int{}
	}
	n := flowrecord.Times(e)
	if e.Kind == flow.Lost {
		f.missing += n
		return
	}
	if isPart(e) {
		return
	}
	if why := cannot(e); why != "" {
		f.unasked[Unasked{Workload: e.Workload, Host: hostOf(e), Why: why}] += n
		return
	}
	if e.Kind == flow.Close {
		n = 0 // its beginning was counted, unless that is in a file that is gone
	}
	key := question(e)
	r := f.all[key]
	if r == nil {
		if len(f.all) >= MaxFlows {
			f.overflow += max(n, 1)
			return
		}
		r = &recorded{event: *e, first: flowrecord.Begin(e), last: e.Time}
		f.all[key] = r
	}
	r.count += n
	if b := flowrecord.Begin(e); b.Before(r.first) {
		r.first = b
	}
	if e.Time.After(r.last) {
		r.last = e.Time
	}
}

// Run asks a policy about the flows.
func (f *Flows) Run(s *policy.Snapshot) Outcomes {
	out := Outcomes{Changes: []FlowChange{}, Missing: f.missing, Overflow: f.overflow}
	p := against{snapshot: s, described: map[string]bool{}}
	for _, w := range s.Workloads() {
		p.described[w.Key()] = true
	}
	undescribed, unasked := map[string]bool{}, maps.Clone(f.unasked)
	for key, r := range f.all {
		if workload := key.workload; workload != "" && !p.described[workload] && isDescribed(workload) {
			undescribed[workload] = true
		}
		c, err := p.ask(key, r)
		if err != nil {
			unasked[Unasked{Workload: key.workload, Host: hostOf(&r.event), Why: err.Error()}] += max(r.count, 1)
			continue
		}
		out.Flows++
		if c.Kind == "" {
			out.Same++
			continue
		}
		out.Changes = append(out.Changes, c)
	}
	for u, n := range unasked {
		u.Count = n
		out.Unasked = append(out.Unasked, u)
	}
	out.Undescribed = slices.Sorted(maps.Keys(undescribed))
	slices.SortFunc(out.Changes, func(a, b FlowChange) int {
		return cmp.Or(cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Host, b.Host), cmp.Compare(order[a.Kind], order[b.Kind]),
			cmp.Compare(a.Target, b.Target), cmp.Compare(a.Method, b.Method), cmp.Compare(fmt.Sprint(a.Was), fmt.Sprint(b.Was)))
	})
	slices.SortFunc(out.Unasked, func(a, b Unasked) int {
		return cmp.Or(cmp.Compare(a.Workload, b.Workload), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Why, b.Why))
	})
	return out
}

// order is that of kinds.
var order = map[ChangeKind]int{Denied: 0, Allowed: 1, Otherwise: 2}
