// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"testing"

	"github.com/egressd/egressd/policy"
)

// TestStrictest: a cgroup has its Workload's mode, unless one of another
// namespace has it, or one around it, in a stricter one.
func TestStrictest(t *testing.T) {
	mode := func(m policy.Mode) *policy.Mode { return &m }
	w := func(namespace string, m *policy.Mode) policy.BoundWorkload {
		return policy.BoundWorkload{Workload: &policy.Workload{Identity: policy.Identity{Name: "w", Namespace: namespace}, Mode: m}}
	}
	enforce, audit, off := mode(policy.Enforce), mode(policy.Audit), mode(policy.Off)
	for _, c := range []struct {
		name   string
		node   policy.Mode
		d      policy.BoundWorkload
		others map[string][]policy.BoundWorkload
		want   policy.Mode
	}{
		{"alone", policy.Enforce, w("b", off), nil, policy.Off},
		{"the node's", policy.Audit, w("b", nil), nil, policy.Audit},
		{"the same cgroup", policy.Enforce, w("b", off), map[string][]policy.BoundWorkload{"/r/a/b": {w("a", enforce)}}, policy.Enforce},
		{"the same cgroup, the node's mode", policy.Enforce, w("b", off), map[string][]policy.BoundWorkload{"/r/a/b": {w("a", nil)}}, policy.Enforce},
		{"around it", policy.Enforce, w("b", off), map[string][]policy.BoundWorkload{"/r/a": {w("a", audit)}}, policy.Audit},
		{"all of the node", policy.Enforce, w("b", off), map[string][]policy.BoundWorkload{"/r": {w("a", enforce)}}, policy.Enforce},
		{"a laxer one", policy.Enforce, w("b", enforce), map[string][]policy.BoundWorkload{"/r/a": {w("a", off)}}, policy.Enforce},
		{"its own namespace's", policy.Enforce, w("b", off), map[string][]policy.BoundWorkload{"/r/a": {w("b", enforce)}}, policy.Off},
	} {
		b := &Binding{opts: Options{Mode: c.node}}
		got := b.strictest(c.d, "/r/a/b", "/r", func(dir string) []policy.BoundWorkload { return c.others[dir] })
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
