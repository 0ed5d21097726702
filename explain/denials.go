// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// Denial sums up the denials of one destination.
type Denial struct {
	DeniedTarget `json:"-"`
	Target       string        `json:"target"`
	Reason       policy.Reason `json:"reason"`
	Rule         *policy.Ref   `json:"rule,omitempty"`
	Count        int           `json:"count"`
	// Commands are the processes that tried.
	Commands []string `json:"commands"`
}

// DenialSummary is what a command was denied.
type DenialSummary struct {
	// List has the destinations, first seen first.
	List []Denial
	// Others counts the denials of destinations that are not in it.
	Others int
	// Lost is how many events of the kernel nobody has read: they came faster
	// than that. What is known only from them is missing.
	Lost uint64
	// Suggestions would allow them.
	Suggestions Suggestions
}

// maxCommands is how many commands are named for one destination.
const maxCommands = 8

type denialKey struct {
	host      string
	port      uint16
	transport policy.Transport
	reason    policy.Reason
}

// Summarize sums the kinds of denials up by destination.
func Summarize(kinds []flow.Event) DenialSummary {
	// The table has them by the last denial.
	slices.SortStableFunc(kinds, func(a, b flow.Event) int { return firstOf(a).Compare(firstOf(b)) })
	var out DenialSummary
	at := map[denialKey]int{}
	for _, e := range kinds {
		n := max(e.Count, 1)
		if e.Detail == flow.TooMany {
			out.Others += n
			continue
		}
		w := DeniedTarget{Name: e.Name, Names: e.Names, Port: e.Dst.Port(), Transport: e.Transport, Speaks: spoken(e)}
		if e.Kind == flow.Query {
			w.Port, w.Transport = 0, policy.TCP
		} else if e.Dst.IsValid() {
			w.Addr = e.Dst.Addr()
		}
		key := denialKey{cmp.Or(strings.Join(w.Names, " "), w.Name, w.Addr.String()), w.Port, e.Transport, e.Reason}
		i, known := at[key]
		if !known {
			i = len(out.List)
			at[key] = i
			out.List = append(out.List, Denial{DeniedTarget: w, Target: targetOf(e, w), Reason: e.Reason, Rule: e.Rule})
		}
		d := &out.List[i]
		d.Count += n
		if c := e.Process.Command; c != "" && len(d.Commands) < maxCommands && !slices.Contains(d.Commands, c) {
			d.Commands = append(d.Commands, c)
		}
	}
	return out
}

// firstOf is when the first of a kind came.
func firstOf(e flow.Event) time.Time {
	if e.First.IsZero() {
		return e.Time
	}
	return e.First
}

func targetOf(e flow.Event, w DeniedTarget) string {
	switch {
	case e.Kind == flow.Query:
		return e.Name + " (dns)"
	case len(w.Names) > 0 && e.Dst.IsValid():
		return fmt.Sprintf("one of %s (%s/%s)", strings.Join(w.Names, ", "), e.Dst, e.Transport)
	case w.Name != "" && e.Dst.IsValid():
		return fmt.Sprintf("%s (%s/%s)", w.Name, e.Dst, e.Transport)
	case e.Dst.IsValid():
		return fmt.Sprintf("%s/%s", e.Dst, e.Transport)
	}
	return cmp.Or(w.Name, e.Transport.String()+" socket")
}

// suggestable says whether a ServiceEntry could allow what was denied for r.
func suggestable(r policy.Reason) bool {
	switch r {
	case policy.ReasonNoRule, policy.ReasonPort, policy.ReasonTransport, policy.ReasonName:
		return true
	}
	return false
}
