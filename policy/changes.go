// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// StaticChanges returns the static openings that old has and p has not, and
// those that p has and old has not. When p was made from old by an Update that
// changed little, it costs little.
func (p *Policy) StaticChanges(old *Policy) (gone, come []Opening) {
	was, now := &old.addrs, &p.addrs
	var changed []addressKey
	for k, c := range now.entries.Changed(&was.entries) {
		if c.Old == c.New {
			continue
		}
		if !k.prefix.IsSingleIP() {
			// What it says counts for the entries within it.
			return compareOpenings(was.openings(), now.openings())
		}
		changed = append(changed, k)
	}
	for _, k := range changed {
		var before, after []Opening
		if e, ok := was.entries.Get(k); ok {
			before = was.opening(nil, k, e)
		}
		if e, ok := now.entries.Get(k); ok {
			after = now.opening(nil, k, e)
		}
		g, c := compareOpenings(before, after)
		gone, come = append(gone, g...), append(come, c...)
	}
	slices.SortFunc(gone, compareOpening)
	slices.SortFunc(come, compareOpening)
	return gone, come
}

// compareOpenings compares two sorted lists.
func compareOpenings(before, after []Opening) (gone, come []Opening) {
	for len(before) > 0 || len(after) > 0 {
		c := 0
		switch {
		case len(before) == 0:
			c = 1
		case len(after) == 0:
			c = -1
		default:
			c = compareOpening(before[0], after[0])
		}
		switch {
		case c < 0:
			gone, before = append(gone, before[0]), before[1:]
		case c > 0:
			come, after = append(come, after[0]), after[1:]
		default:
			if before[0] != after[0] {
				gone, come = append(gone, before[0]), append(come, after[0])
			}
			before, after = before[1:], after[1:]
		}
	}
	return gone, come
}

// ChangedHosts returns the host patterns that may open something else in p
// than in old, those that are in one of them only among them.
func (p *Policy) ChangedHosts(old *Policy) []hostname.Pattern {
	var out []hostname.Pattern
	for h, c := range p.names.Changed(old.names) {
		if c.Had != c.Has || c.Old != c.New && c.Old.sum != c.New.sum {
			out = append(out, h)
		}
	}
	return out
}
