// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// Workloads finds cgroups that Workloads of several namespaces claim, where one
// would take the other's processes or free them. Some of that is an Error, so
// that it is looked for before there is a Config. What is not found here, because it depends on the cgroups that are there, the daemon settles
// in favour of the stricter mode.
func Workloads(workloads []*policy.Workload, from Files) {
	exact, forms := map[string]claim{}, map[string][]claim{}
	var all, weak []claim
	comparisons := 0
	for _, w := range workloads {
		for _, c := range claims(w) {
			if c.kind == "cgroup" { // where others are is not known before
				all = append(all, c)
				if modeOf(w) != policy.Enforce {
					weak = append(weak, c)
				}
			}
			form := c.form()
			if first, ok := exact[c.key()]; ok {
				from.claimedTwice(c, first)
				continue
			}
			exact[c.key()] = c
			for _, first := range forms[form] {
				if comparisons++; comparisons > maxComparisons {
					break
				}
				if samePaths(c.pattern, first.pattern) {
					from.claimedTwice(c, first)
					break
				}
			}
			if len(forms[form]) < maxCompared {
				forms[form] = append(forms[form], c)
			}
		}
	}
	comparisons = 0
	for _, c := range weak {
		for _, o := range all {
			if comparisons++; comparisons > maxComparisons {
				return
			}
			if o.workload.Ref.Namespace == c.workload.Ref.Namespace || modeOf(c.workload) <= modeOf(o.workload) {
				continue
			}
			if inside(o.pattern, c.pattern) && specific(o.pattern, c.pattern) < 0 {
				from.claim(strictyaml.Warning, c, "is around %s of %s (%s), which keeps its mode %s: mode %s is for what else is there",
					o.pattern, nameOf(o.workload.Ref), o.workload.Ref.Position(), modeOf(o.workload), modeOf(c.workload))
			}
			if inside(c.pattern, o.pattern) && specific(c.pattern, o.pattern) < 0 {
				from.claim(strictyaml.Error, c, "is within %s of %s (%s), which is in mode %s: the mode %s of another namespace does not free it; give it to one namespace, or the same mode",
					o.pattern, nameOf(o.workload.Ref), o.workload.Ref.Position(), modeOf(o.workload), modeOf(c.workload))
				break
			}
		}
	}
}

// modeOf is a Workload's mode; that of the node is taken for the strictest.
func modeOf(w *policy.Workload) policy.Mode {
	if w.Mode == nil {
		return policy.Enforce
	}
	return *w.Mode
}

func (w Files) claimedTwice(c, first claim) {
	if c.workload.Ref.Namespace != first.workload.Ref.Namespace {
		w.claim(strictyaml.Error, c, "is also claimed by %s (%s, mode %s) of another namespace as %s: a process has one identity; give it to one of them",
			nameOf(first.workload.Ref), first.workload.Ref.Position(), modeOf(first.workload), first.pattern)
	}
}

func (w Files) claim(s strictyaml.Severity, c claim, format string, args ...any) {
	at := w.part(c.workload.Ref)
	at.SayCode(code.Cgroup, s, at.spec(c.field, c.index), "the %s %s "+format, slices.Concat([]any{c.kind, c.pattern}, args)...)
}

// pathOf are the segments of a pattern without a last "**", which stands for
// what is below anyway.
func pathOf(pattern string) []string {
	s := strings.Split(pattern, "/")
	if s[len(s)-1] == "**" {
		s = s[:len(s)-1]
	}
	return s
}

// inside says whether some cgroup that inner names is one of outer, or below
// one.
func inside(inner, outer string) bool {
	in, out := pathOf(inner), pathOf(outer)
	return len(in) >= len(out) && slices.EqualFunc(in[:len(out)], out, sameText)
}

// specific orders patterns, the most specific first, as the daemon does.
func specific(a, b string) int {
	wild := func(s string) int { return strings.Count(s, "*") + strings.Count(s, "?") }
	return cmp.Or(cmp.Compare(len(pathOf(b)), len(pathOf(a))), cmp.Compare(wild(a), wild(b)), cmp.Compare(len(b), len(a)))
}
