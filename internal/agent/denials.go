// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Denial sums up the denials of one destination.
type Denial struct {
	Wish   `json:"-"`
	Target string        `json:"target"`
	Reason policy.Reason `json:"reason"`
	Rule   *policy.Ref   `json:"rule,omitempty"`
	Count  int           `json:"count"`
	// Commands are the processes that tried.
	Commands   []string `json:"commands"`
	Suggestion string   `json:"suggestion,omitempty"`
}

// Denials is what a command was denied.
type Denials struct {
	// List has the destinations, first seen first.
	List []Denial
	// Others counts the denials of destinations that are not in it.
	Others int
	// Lost is how many events of the kernel nobody has read: they came faster
	// than that. What is known only from them is missing.
	Lost uint64
}

// Bounds of what is remembered of one command.
const (
	maxDenials  = 1024
	maxCommands = 8
)

// tally sums denials up as they come.
type tally struct {
	mu     sync.Mutex
	byKey  map[denialKey]*Denial
	order  []*Denial
	others int
}

type denialKey struct {
	host      string
	port      uint16
	transport policy.Transport
	reason    policy.Reason
}

func newTally() *tally { return &tally{byKey: map[denialKey]*Denial{}} }

// add takes an event; those that are no denials are left out.
func (t *tally) add(e flow.Event) {
	if !e.Denied() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := max(e.More, 1)
	if e.Detail == flow.TooMany {
		t.others += n
		return
	}
	w := Wish{Name: e.Name, Port: e.Dst.Port(), Transport: e.Transport, Speaks: spoken(e)}
	if e.Kind == flow.Query {
		w.Port, w.Transport = 0, policy.TCP
	} else if e.Dst.IsValid() {
		w.Addr = e.Dst.Addr()
	}
	key := denialKey{cmp.Or(w.Name, w.Addr.String()), w.Port, e.Transport, e.Reason}
	d := t.byKey[key]
	if d == nil {
		if len(t.order) >= maxDenials {
			t.others += n
			return
		}
		d = &Denial{Wish: w, Target: targetOf(e, w), Reason: e.Reason, Rule: e.Rule}
		if wishable(e.Reason) && (w.Name != "" || w.Addr.IsValid()) {
			d.Suggestion = Suggest(w)
		}
		t.byKey[key] = d
		t.order = append(t.order, d)
	}
	d.Count += n
	if c := e.Process.Command; c != "" && len(d.Commands) < maxCommands && !slices.Contains(d.Commands, c) {
		d.Commands = append(d.Commands, c)
	}
}

// denials is the sum so far.
func (t *tally) denials() Denials {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Denials{List: make([]Denial, len(t.order)), Others: t.others}
	for i, d := range t.order {
		out.List[i] = *d
	}
	return out
}

func targetOf(e flow.Event, w Wish) string {
	switch {
	case e.Kind == flow.Query:
		return e.Name + " (dns)"
	case w.Name != "" && e.Dst.IsValid():
		return fmt.Sprintf("%s (%s/%s)", w.Name, e.Dst, e.Transport)
	case e.Dst.IsValid():
		return fmt.Sprintf("%s/%s", e.Dst, e.Transport)
	}
	return cmp.Or(w.Name, e.Transport.String()+" socket")
}

// wishable says whether a ServiceEntry could allow what was denied for r.
func wishable(r policy.Reason) bool {
	switch r {
	case policy.ReasonNoRule, policy.ReasonPort, policy.ReasonTransport, policy.ReasonName:
		return true
	}
	return false
}
