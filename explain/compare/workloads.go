// SPDX-License-Identifier: Apache-2.0

package compare

import (
	"fmt"
	"slices"

	"github.com/egressd/egressd/policy"
)

// described says of workloads which processes they are and in which mode, where that
// differs. Whose coming and going changes nothing else is said to have a mode alone.
func described(old, next *policy.Snapshot, workloads []string) (out []Delta) {
	before, after := byKey(old), byKey(next)
	for _, name := range workloads {
		a, b := before[name], after[name]
		if was, is := modeOf(a), modeOf(b); was != is {
			out = append(out, Delta{Workload: name, Kind: Changed, What: "mode", Old: []string{was}, New: []string{is},
				Says: []string{fmt.Sprintf("the mode is now %s (it was %s)", is, was)}})
		}
		if a == nil || b == nil || slices.Equal(a.Claims(), b.Claims()) {
			continue
		}
		d := Delta{Workload: name, Kind: Changed, What: "processes"}
		d.Old, d.New = differing(a.Claims(), b.Claims())
		for _, c := range d.New {
			d.Says = append(d.Says, "the processes of "+claim(c)+" are now of this workload")
		}
		for _, c := range d.Old {
			d.Says = append(d.Says, "the processes of "+claim(c)+" are no longer of this workload")
		}
		out = append(out, d)
	}
	return out
}

func byKey(s *policy.Snapshot) map[string]*policy.Workload {
	out := map[string]*policy.Workload{}
	for _, w := range s.Workloads() {
		out[w.Key()] = w.Workload
	}
	return out
}

// modeOf says what is done with what the policy of a workload denies; nil: there is none.
func modeOf(w *policy.Workload) string {
	if w == nil || w.Mode == nil {
		return "the node's"
	}
	switch *w.Mode {
	case policy.Audit:
		return "audit, in which a denial is told and the flow passes"
	case policy.Off:
		return "off, in which nothing is decided"
	}
	return "enforce, in which a denial denies"
}

// claim is what a workload is selected by, with its kind.
func claim(text string) string {
	for _, kind := range [...]string{"container ", "unit ", "slice "} {
		if len(text) > len(kind) && text[:len(kind)] == kind {
			return text
		}
	}
	return "cgroup " + text
}
