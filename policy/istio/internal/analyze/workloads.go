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

// claim is a cgroup pattern of a Workload.
type claim struct {
	workload *policy.Workload
	index    int
	pattern  string
}

// workloads finds cgroups that two Workloads claim with equal right.
func (a *analysis) workloads() {
	exact := map[string]claim{}
	forms := map[string][]claim{}
	comparisons := 0
	for _, w := range a.cfg.Workloads {
		for i, pattern := range w.Cgroups {
			c := claim{w, i, pattern}
			if first, ok := exact[pattern]; ok {
				a.contested(c, first)
				continue
			}
			exact[pattern] = c
			form := formOf(pattern)
			for _, first := range forms[form] {
				if comparisons++; comparisons > maxComparisons {
					break
				}
				if samePaths(pattern, first.pattern) {
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
	at := s.spec("cgroups", c.index)
	switch {
	case c.workload == first.workload && c.pattern == first.pattern:
		s.Warnf(at, "the cgroup %s is listed twice", c.pattern)
	case c.workload == first.workload:
	case c.pattern == first.pattern:
		s.Warnf(at, "%s (%s) has the cgroup %s already; of several the first applies",
			nameOf(first.workload.Ref), first.workload.Ref.Position(), c.pattern)
	default:
		s.Warnf(at, "some cgroups are also those of %s in %s (%s), which is as specific; of several the first applies",
			first.pattern, nameOf(first.workload.Ref), first.workload.Ref.Position())
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
