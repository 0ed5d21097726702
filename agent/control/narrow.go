// SPDX-License-Identifier: Apache-2.0

package control

import (
	"maps"
	"sync/atomic"

	"github.com/egressd/egressd/policy"
)

// Narrow knows the policies whose tables are not yet what they are to be, and
// those among them that may lack what closes (ALLOW_ANY): until they have it,
// what they do not know is not open. A Target for workloads has one. Its zero
// value knows none.
type Narrow struct {
	p atomic.Pointer[map[policy.PolicyID]bool] // true: may lack what closes
}

// Tighten is for the Target's.
func (n *Narrow) Tighten(c policy.Change) {
	n.change(func(ids map[policy.PolicyID]bool) {
		for _, p := range c.Policies {
			if p.Next != nil {
				ids[p.ID] = !p.Unknown
			}
		}
	})
}

// Loosen is for the Target's.
func (n *Narrow) Loosen(c policy.Change) {
	n.change(func(ids map[policy.PolicyID]bool) {
		for _, p := range c.Policies {
			delete(ids, p.ID)
		}
	})
}

func (n *Narrow) change(f func(map[policy.PolicyID]bool)) {
	ids := map[policy.PolicyID]bool{}
	maps.Copy(ids, n.ids())
	f(ids)
	n.p.Store(&ids)
}

func (n *Narrow) ids() map[policy.PolicyID]bool {
	if ids := n.p.Load(); ids != nil {
		return *ids
	}
	return nil
}

// Open says whether what the tables of a policy do not know is open now.
func (n *Narrow) Open(p *policy.Policy) bool { return p.AllowsUnknown() && !n.ids()[p.ID()] }

// Pending says whether a policy is not yet what it is to be: workloads that have
// changed over to it are in the kernel's tables, but the core goes by the policy
// before, which is not theirs.
func (n *Narrow) Pending(id policy.PolicyID) bool {
	_, ok := n.ids()[id]
	return ok
}

// Shuts says whether a workload that may reach what the tables of its policy do
// not know has to lose that before they are changed.
func Shuts(c policy.Change, id policy.PolicyID) bool {
	p := c.Next.Policy(id)
	return p != nil && !p.AllowsUnknown()
}
