// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// StaticChange is what a prefix, transport and port open by themselves now.
type StaticChange struct {
	Prefix    netip.Prefix
	Transport Transport
	Port      uint16 // host order; with Inside 0: every port
	// Inside says that it counts where nothing else names the flow's address and
	// port.
	Inside bool
	// Openings are all that there are, as in Static; none: it is closed.
	Openings []Opening
}

// StaticChanges returns what the static openings of old and p differ in. When
// p was made from old by an Update that changed little, it costs little. A nil
// old opens nothing.
func (p *Policy) StaticChanges(old *Policy) []StaticChange {
	if old == nil {
		old = emptyPolicy
	}
	was, now := &old.addrs, &p.addrs
	var keys []addressKey
	all := now.unknown != was.unknown || !slices.Equal(now.inside, was.inside)
	for k, c := range now.entries.Changed(&was.entries) {
		if c.Old != c.New {
			keys = append(keys, k)
			// What a prefix says counts for the entries within it.
			all = all || !k.prefix.IsSingleIP()
		}
	}
	if all {
		keys = slices.Collect(maps.Keys(allKeys(was, now)))
	}
	var out []StaticChange
	for _, k := range keys {
		before, after := was.at(k), now.at(k)
		if !slices.Equal(before, after) {
			out = append(out, StaticChange{Prefix: k.prefix, Transport: k.transport, Port: k.port, Openings: after})
		}
	}
	return append(out, p.cluster.changes(&old.cluster)...)
}

func allKeys(tables ...*addressTable) map[addressKey]bool {
	out := map[addressKey]bool{}
	for _, t := range tables {
		for k := range t.entries.All() {
			out[k] = true
		}
	}
	return out
}

// at returns what one entry opens, sorted.
func (t *addressTable) at(k addressKey) []Opening {
	e, ok := t.entries.Get(k)
	if !ok {
		return nil
	}
	return t.opening(nil, k, e)
}

// ChangedHosts returns the host patterns that may open something else in p
// than in old, those that are in one of them only among them. A nil old opens
// nothing.
func (p *Policy) ChangedHosts(old *Policy) []hostname.Pattern {
	if old == nil {
		old = emptyPolicy
	}
	var out []hostname.Pattern
	for h, c := range p.names.Changed(old.names) {
		if c.Had != c.Has || c.Old != c.New && c.Old.sum != c.New.sum {
			out = append(out, h)
		}
	}
	for _, list := range [...][2]map[string]*reservedName{{p.reserved, old.reserved}, {old.reserved, p.reserved}} {
		for name, r := range list[0] {
			if other := list[1][name]; other == nil || !slices.Equal(other.from, r.from) {
				out = append(out, hostname.Pattern(name))
			}
		}
	}
	return out
}
