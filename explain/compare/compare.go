// SPDX-License-Identifier: Apache-2.0

// Package compare says what a policy decides that another one decides in another way:
// for each workload what becomes reachable, what becomes unreachable, and which rules
// act differently.
package compare

import (
	"cmp"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// DeltaKind is what a difference does to traffic.
type DeltaKind string

// The kinds of differences.
const (
	Reachable   DeltaKind = "reachable"   // it was not before
	Unreachable DeltaKind = "unreachable" // it was before
	Changed     DeltaKind = "changed"     // it is decided or acted on in another way
)

// Delta is one of them.
type Delta struct {
	// Workload is "namespace/name"; "": every process that is not described.
	Workload string    `json:"workload"`
	Kind     DeltaKind `json:"kind"`
	// What is a host with a port ("api.example.com:443/tcp"), a network with a port
	// ("10.0.0.0/8:5432/tcp"), the rules of a host ("rules of api.example.com") or a
	// setting of the workload's policy.
	What string `json:"what"`
	// Says are sentences: what differs, how it is now, and how it was.
	Says []string `json:"says"`
	// Old and New are what is decided of it, without the places of objects. Of what
	// has changed they have the lines that differ and nothing else.
	Old []string `json:"old,omitempty"`
	New []string `json:"new,omitempty"`
}

// everybody are the processes that are not described.
const everybody = ""

// Policies returns what next decides in another way than old, sorted by workload and
// then by what it is about; none: both decide the same. Where workloads come or go, they
// are compared with the processes that are not described, which they were or become.
func Policies(old, next *policy.Snapshot) []Delta {
	before, after := policiesOf(old), policiesOf(next)
	var out []Delta
	for _, w := range workloads(before, after) {
		a, b := before.of(w), after.of(w)
		for _, what := range names(a, b) {
			if d, differs := difference(w, what, a[what], b[what]); differs {
				out = append(out, d)
			}
		}
	}
	out = slices.Concat(out, described(old, next, workloads(before, after)))
	out = slices.Concat(out, gateways(before, after), telemetries(old, next, workloads(before, after)))
	slices.SortStableFunc(out, func(a, b Delta) int { return cmp.Compare(a.Workload, b.Workload) })
	return out
}

// gateways compares the listeners of gateways, which no workload has.
func gateways(before, after policies) (out []Delta) {
	for _, what := range names(before.listeners, after.listeners) {
		if d, differs := difference(everybody, what, before.listeners[what], after.listeners[what]); differs {
			out = append(out, d)
		}
	}
	return out
}

func workloads(a, b policies) []string {
	out := []string{everybody}
	for _, p := range []policies{a, b} {
		for name := range p.named {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return out
}

func names(a, b map[string]item) []string {
	var out []string
	for name := range a {
		out = append(out, name)
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, func(x, y string) int {
		// What can be reached comes before rules and settings.
		return cmp.Or(cmp.Compare(strings.Count(x, " "), strings.Count(y, " ")), cmp.Compare(x, y))
	})
	return out
}

// difference compares what two policies say of one thing; no lines: nothing.
func difference(workload, what string, old, next item) (Delta, bool) {
	d := Delta{Workload: workload, Kind: Changed, What: what}
	switch {
	case slices.Equal(old.lines, next.lines):
		return d, false
	case old.opens == next.opens && old.lines != nil && next.lines != nil:
		d.Old, d.New = differing(old.lines, next.lines)
		d.Says = sentences(old.lines, next.lines)
		return d, true
	case next.opens && !old.opens:
		d.Kind = Reachable
		d.Says = []string{what + " becomes reachable: " + first(next.lines)}
	case old.opens && !next.opens:
		d.Kind = Unreachable
		d.Says = []string{what + " becomes unreachable; it was: " + first(old.lines)}
	default:
		d.Says = sentences(old.lines, next.lines)
	}
	d.Old, d.New = old.lines, next.lines
	return d, true
}

// first is the line that says what is decided; the rest is how it is done.
func first(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	line, _, _ := strings.Cut(lines[0], " first=") // behind it: for what each protocol stands
	return line
}

// differing are the lines that one has and the other has not, in their order: what is
// left when a longest common subsequence is taken out.
func differing(a, b []string) (onlyA, onlyB []string) {
	const most = 2000 // lines of one thing; beyond it the product is too large
	if len(a) > most || len(b) > most {
		return a, b
	}
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			onlyA, i = append(onlyA, a[i]), i+1
		default:
			onlyB, j = append(onlyB, b[j]), j+1
		}
	}
	return append(onlyA, a[i:]...), append(onlyB, b[j:]...)
}
