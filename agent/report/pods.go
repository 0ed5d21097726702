// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// WorkloadSum sums workloads up: there may be hundreds of pods on a node.
type WorkloadSum struct {
	Workloads  int
	Namespaces int
	Policies   int
	// Modes counts them by mode.
	Modes map[string]int
}

// SumOf sums workloads up that are described: pods, units, containers. What has no
// name with a namespace is none of them.
func SumOf(all []WorkloadStatus) WorkloadSum {
	s := WorkloadSum{Modes: map[string]int{}}
	namespaces, policies := map[string]bool{}, map[policy.PolicyID]bool{}
	for _, w := range all {
		namespace, _, ok := strings.Cut(w.Name, "/")
		if !ok {
			continue
		}
		s.Workloads++
		s.Modes[w.Mode]++
		namespaces[namespace], policies[w.Policy] = true, true
	}
	s.Namespaces, s.Policies = len(namespaces), len(policies)
	return s
}

// String says it in words.
func (s WorkloadSum) String() string {
	var modes []string
	for m, n := range s.Modes {
		modes = append(modes, fmt.Sprintf("%d %s", n, m))
	}
	slices.Sort(modes)
	return fmt.Sprintf("%d of %d namespaces, with %d policies: %s", s.Workloads, s.Namespaces, s.Policies, strings.Join(modes, ", "))
}
