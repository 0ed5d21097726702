// SPDX-License-Identifier: Apache-2.0

package control

import (
	"sync/atomic"

	"github.com/egressd/egressd/policy"
)

// Current holds the snapshot that everything decides from. Its zero value has
// none.
type Current struct{ p atomic.Pointer[view] }

// view is a snapshot, and until the workloads have changed over to it the
// policies that they may still have, as they were.
type view struct {
	*policy.Snapshot
	before map[policy.PolicyID]*policy.Policy
}

func (v *view) policy(id policy.PolicyID) *policy.Policy {
	if v == nil || v.Snapshot == nil {
		return nil
	}
	if p, ok := v.before[id]; ok {
		return p
	}
	return v.Policy(id)
}

// Snapshot returns the newest snapshot, nil before the first.
func (c *Current) Snapshot() *policy.Snapshot {
	if v := c.p.Load(); v != nil {
		return v.Snapshot
	}
	return nil
}

// Policy returns what flows with the policy of an id are decided by, or nil.
func (c *Current) Policy(id policy.PolicyID) *policy.Policy { return c.p.Load().policy(id) }

// Set makes a snapshot the one that everything decides from.
func (c *Current) Set(s *policy.Snapshot) { c.p.Store(&view{Snapshot: s}) }

// swap does the same, but workloads that may have another policy by it are
// decided by the one that they have until Set.
func (c *Current) swap(change policy.Change) {
	was := c.p.Load()
	v := &view{Snapshot: change.Next, before: map[policy.PolicyID]*policy.Policy{}}
	for _, p := range change.Policies {
		if p.Left {
			v.before[p.ID] = was.policy(p.ID)
		}
	}
	keep := func(id policy.PolicyID) {
		if change.Next.Policy(id) == nil {
			v.before[id] = was.policy(id)
		}
	}
	if was != nil {
		for _, id := range was.Policies() {
			keep(id)
		}
		for id := range was.before {
			keep(id)
		}
	}
	c.p.Store(v)
}
