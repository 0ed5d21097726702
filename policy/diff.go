// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// Change is what leads from one snapshot to another. Whoever keeps something
// that follows from the policy is brought from the one to the other by it.
type Change struct {
	// Old is nil when it is not known what there is: then Policies has all that
	// Next opens, and what else is found is to go.
	Old, Next *Snapshot
	// Policies are those of Next that say something else than before, and those
	// that were added (Add), in ascending order.
	Policies []PolicyChange
	// Gone are the policies that Old has and Next has not. Nil Old: there may be
	// others.
	Gone []PolicyID
	// Moves are the workloads' changes from one policy to another, each once.
	Moves []Move
}

// PolicyChange is what one policy says now.
type PolicyChange struct {
	ID PolicyID
	// Old is nil for a policy that is new, or of which it is not known what there
	// is; Next is nil for one that no snapshot has.
	Old, Next *Policy
	// Static are the addresses that open something else by themselves.
	Static []StaticChange
	// Hosts are the patterns that may open something else, unless AllHosts says
	// that every host may.
	Hosts    []hostname.Pattern
	AllHosts bool
	// Left says that workloads may have the policy now, by the kernel's tables,
	// and not have it by Next: they must not see what it opens in Next.
	Left bool
	// Unknown says that what it does not name is open and stays so, at least
	// inside of the cluster: an entry can close.
	Unknown bool
}

// Move is a change of workloads from one policy to another.
type Move struct{ From, To PolicyID }

// Diff returns what leads from old to next. A nil old stands for everything
// that there may be. Between snapshots that an Update made from each other it
// costs little where little has changed.
func Diff(old, next *Snapshot) Change {
	c := Change{Old: old, Next: next}
	if old != nil {
		c.Gone = slices.DeleteFunc(old.Policies(), func(id PolicyID) bool { return next.Policy(id) != nil })
		c.Moves = Moves(old, next)
	}
	regrouped := old == nil || !sameGroups(old.workloads, next.workloads)
	for _, p := range next.policies {
		var was *Policy
		if old != nil {
			was = old.Policy(p.id)
		}
		if was == p || was != nil && was.names == p.names && was.sum == p.sum {
			continue
		}
		one := PolicyChange{ID: p.id, Old: was, Next: p, Static: p.StaticChanges(was), Hosts: p.ChangedHosts(was)}
		one.AllHosts = old == nil || was != nil && !p.sameRest(was)
		one.Unknown = p.Narrows() && (old == nil || was != nil && was.Narrows())
		one.Left = old == nil || was != nil &&
			(regrouped || slices.ContainsFunc(c.Moves, func(m Move) bool { return m.From == p.id }))
		c.Policies = append(c.Policies, one)
	}
	return c
}

// Moves lists the changes of policy of the workloads that both snapshots have.
func Moves(old, next *Snapshot) (out []Move) {
	had := map[string]PolicyID{}
	for _, w := range old.workloads {
		had[w.Key()] = w.Policy
	}
	for _, w := range next.workloads {
		if from, ok := had[w.Key()]; ok && from != w.Policy && !slices.Contains(out, Move{from, w.Policy}) {
			out = append(out, Move{from, w.Policy})
		}
	}
	return out
}

// sameGroups says whether the same workloads have the same cgroups, containers and units. Otherwise a
// cgroup may go from any policy to any other.
func sameGroups(a, b []BoundWorkload) bool {
	return slices.EqualFunc(a, b, func(x, y BoundWorkload) bool {
		return x.Key() == y.Key() && slices.Equal(x.Claims(), y.Claims())
	})
}

// Add adds a policy that no snapshot has, with all that it opens.
func (c *Change) Add(id PolicyID, openings ...Opening) {
	one := PolicyChange{ID: id}
	at := map[addressKey]int{}
	for _, o := range openings {
		k := addressKey{o.Prefix, o.Transport, o.Port}
		i, ok := at[k]
		if !ok {
			i = len(one.Static)
			at[k] = i
			one.Static = append(one.Static, StaticChange{Prefix: o.Prefix, Transport: o.Transport, Port: o.Port})
		}
		one.Static[i].Openings = append(one.Static[i].Openings, o)
	}
	c.Policies = append(c.Policies, one)
}

// Has says whether there is a policy after the change.
func (c Change) Has(id PolicyID) bool {
	return c.Next.Policy(id) != nil || slices.ContainsFunc(c.Policies, func(p PolicyChange) bool { return p.ID == id })
}

// Left is the change of the policies that workloads leave, or with false that
// of the others, which may be had before the workloads change over.
func (c Change) Left(left bool) Change {
	is := map[PolicyID]bool{}
	for _, p := range c.Policies {
		is[p.ID] = p.Left
	}
	c.Policies = slices.DeleteFunc(slices.Clone(c.Policies), func(p PolicyChange) bool { return p.Left != left })
	c.Moves = slices.DeleteFunc(slices.Clone(c.Moves), func(m Move) bool { return is[m.To] != left })
	return c
}
