// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// Bounds of how many patterns are compared: with one pattern, and in all.
// More are surely generated, and by one rule.
const (
	maxCompared    = 32
	maxComparisons = 10_000
)

// claim is a cgroup pattern of a Workload, or another selector of it.
type claim struct {
	workload *policy.Workload
	field    string // of the spec
	index    int
	kind     string // what it is called
	pattern  string
}

// claims are all selectors of a Workload.
func claims(w *policy.Workload) (all []claim) {
	for i, c := range w.Cgroups {
		all = append(all, claim{w, "cgroups", i, "cgroup", c})
	}
	for i, c := range w.Containers {
		all = append(all, claim{w, "containers", i, "container", c.String()})
	}
	for i, u := range w.Units {
		all = append(all, claim{w, "systemdUnits", i, "unit", u})
	}
	for i, s := range w.Slices {
		all = append(all, claim{w, "systemdSlices", i, "slice", s})
	}
	return all
}

// key is equal for claims of the same.
func (c claim) key() string { return c.kind + " " + c.pattern }

// form is formOf for claims that patterns make.
func (c claim) form() string {
	if c.kind == "container" {
		return c.key() // what two of them select is not known before there are containers
	}
	return c.kind + " " + formOf(c.pattern)
}

// workloads finds cgroups, containers and units that two Workloads claim with equal right.
func (a *analysis) workloads() {
	exact := map[string]claim{}
	forms := map[string][]claim{}
	comparisons := 0
	for _, w := range a.cfg.Workloads {
		for _, c := range claims(w) {
			if first, ok := exact[c.key()]; ok {
				a.contested(c, first)
				continue
			}
			exact[c.key()] = c
			form := c.form()
			for _, first := range forms[form] {
				if comparisons++; comparisons > maxComparisons {
					break
				}
				if samePaths(c.pattern, first.pattern) {
					a.contested(c, first)
					break
				}
			}
			if len(forms[form]) < maxCompared {
				forms[form] = append(forms[form], c)
			}
		}
	}
}

func (a *analysis) contested(c, first claim) {
	s := a.part(c.workload.Ref)
	at := s.spec(c.field, c.index)
	switch {
	case c.workload == first.workload && c.pattern == first.pattern:
		s.Warnf(at, "the %s %s is listed twice", c.kind, c.pattern)
	case c.workload == first.workload:
	case c.pattern == first.pattern:
		s.Warnf(at, "%s (%s) has the %s %s already; of several the first applies",
			nameOf(first.workload.Ref), first.workload.Ref.Position(), c.kind, c.pattern)
	default:
		s.Warnf(at, "some %ss are also those of %s in %s (%s), which is as specific; of several the first applies",
			c.kind, first.pattern, nameOf(first.workload.Ref), first.workload.Ref.Position())
	}
}

// formOf is the same for patterns that are equally specific and can stand for
// the same path: the segments without a '*', and how many other characters
// those with one have.
func formOf(pattern string) string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		if s != "**" && strings.Contains(s, "*") {
			segments[i] = "*" + string(rune(len(s)-strings.Count(s, "*")))
		}
	}
	return strings.Join(segments, "/")
}

// samePaths says whether two patterns of one form stand for a path both.
func samePaths(a, b string) bool {
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	return slices.EqualFunc(as, bs, func(x, y string) bool { return x == y || sameText(x, y) })
}

// sameText says whether some text is matched by both x and y, in which '*'
// stands for any characters. reach[j] says whether what is left of y from j
// on can match what is left of x.
func sameText(x, y string) bool {
	reach := make([]bool, len(y)+1)
	for i := len(x); i >= 0; i-- {
		diagonal := false // reach[j+1] of the row before
		for j := len(y); j >= 0; j-- {
			below := reach[j]
			switch {
			case i == len(x) && j == len(y):
				reach[j] = true
			case i < len(x) && x[i] == '*':
				// nothing more, or one more character of y
				reach[j] = below || j < len(y) && reach[j+1]
			case j < len(y) && y[j] == '*':
				reach[j] = reach[j+1] || i < len(x) && below
			default:
				reach[j] = i < len(x) && j < len(y) && x[i] == y[j] && diagonal
			}
			diagonal = below
		}
	}
	return reach[0]
}
