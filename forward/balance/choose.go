// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// overprovision is by how much the good endpoints of a priority or a place may be
// asked more than their share before others are (envoy
// config.endpoint.v3.ClusterLoadAssignment.Policy.overprovisioning_factor, 140 %).
const overprovision = 1.4

// group are the endpoints of one priority and place.
type group struct {
	priority uint8
	locality uint16
	share    uint32
	hosts    []*host
	// good are those that may be chosen, equal says that their weights are.
	good  []*host
	equal bool
	// odds is the share of all requests that the group gets.
	odds float64
	// now is the turn that came last, next the place of the one after it.
	now  float64
	next uint64
	// warm is until when a good one warms up.
	warm  time.Time
	table *table // nil: to be made
}

// regroup sorts the hosts into groups.
func (b *Balancer) regroup() {
	type id struct {
		priority uint8
		locality uint16
	}
	old := make(map[id]*group, len(b.groups))
	for _, g := range b.groups {
		old[id{g.priority, g.locality}] = g
	}
	byID := map[id]*group{}
	b.groups = nil
	for _, h := range b.hosts {
		at := id{h.Priority, 0}
		if h.Share > 0 {
			at.locality = h.Locality
		}
		g := byID[at]
		if g == nil {
			g = &group{priority: at.priority, locality: at.locality, next: b.o.Rand()}
			if was := old[at]; was != nil {
				g.now, g.next = was.now, was.next
			}
			byID[at], b.groups = g, append(b.groups, g)
		}
		if h.group == nil || h.group.priority != g.priority || h.group.locality != g.locality {
			// Not all at once, or the first of each list would always begin.
			h.turn = g.now + fraction(b.o.Rand())/weightOf(h)
		}
		g.share = max(g.share, h.Share)
		h.group, g.hosts = g, append(g.hosts, h)
	}
	slices.SortStableFunc(b.groups, func(x, y *group) int { return cmp.Compare(x.priority, y.priority) })
	b.refresh()
}

// refresh works out anew which endpoints may be chosen.
func (b *Balancer) refresh() {
	b.ejected = 0
	for _, h := range b.hosts {
		if h.out() {
			b.ejected++
		}
	}
	all := b.panics()
	for _, g := range b.groups {
		g.good, g.table, g.equal, g.warm = nil, nil, true, time.Time{}
		for _, h := range g.hosts {
			if h.out() && !all {
				continue
			}
			g.equal = g.equal && (len(g.good) == 0 || weightOf(g.good[0]) == weightOf(h))
			g.good = append(g.good, h)
			if end := h.joined.Add(b.p.SlowStart.Window); !h.joined.IsZero() && end.After(g.warm) && b.p.SlowStart.Window > 0 {
				g.warm = end
			}
		}
	}
	b.spread()
}

// spread gives each group its odds.
func (b *Balancer) spread() {
	for i, odds := range b.odds(nil) {
		b.groups[i].odds = odds
	}
}

// odds are what each group gets of all requests: a priority as much as its good
// endpoints can take of what those before it leave (Envoy, "Priority levels"), within
// it each place its weight, as far as its good endpoints can take it ("Locality
// weighted load balancing"). Priorities that are out get nothing; nil: none is.
func (b *Balancer) odds(out func(priority uint8) bool) []float64 {
	list := make([]float64, len(b.groups))
	left := 1.0
	total := 0.0
	for i := 0; i < len(b.groups); {
		end, good, hosts, shares := i, 0, 0, 0.0
		for ; end < len(b.groups) && b.groups[end].priority == b.groups[i].priority; end++ {
			good, hosts = good+len(b.groups[end].good), hosts+len(b.groups[end].hosts)
			shares += b.groups[end].takes()
		}
		part := min(left, healthy(good, hosts))
		if out != nil && out(b.groups[i].priority) {
			part = 0
		}
		for ; i < end; i++ {
			if shares > 0 {
				list[i] = part * b.groups[i].takes() / shares
			}
			total += list[i]
		}
		left -= part
	}
	if total > 0 { // all of them together may be able to take less than all
		for i := range list {
			list[i] /= total
		}
	}
	return list
}

// healthy is how much of its share a number of good endpoints among all can take.
func healthy(good, all int) float64 {
	if all == 0 {
		return 0
	}
	return min(1, overprovision*float64(good)/float64(all))
}

// takes is the group's part among those of its priority.
func (g *group) takes() float64 {
	return float64(max(g.share, 1)) * healthy(len(g.good), len(g.hosts))
}

// choose chooses an endpoint; nil: none is good.
func (b *Balancer) choose(key Hash) *host {
	g := b.groups[0]
	if len(b.groups) > 1 {
		if g = b.group(key, nil); g == nil {
			g = b.groups[0]
		}
	}
	if len(g.good) == 0 {
		return nil
	}
	return b.among(g, g.good, key, nil)
}

// group draws a group by odds, nil for its own; a hash always has the same. It is nil
// when none has any.
func (b *Balancer) group(key Hash, odds []float64) *group {
	n := key.Sum * 0x9e3779b97f4a7c15 // spread, or it would be where the table begins
	if !b.hashes() || !key.Set {
		n = b.o.Rand()
	}
	share := func(i int) float64 {
		if odds != nil {
			return odds[i]
		}
		return b.groups[i].odds
	}
	at := fraction(n)
	for i, g := range b.groups {
		if at -= share(i); at < 0 && len(g.good) > 0 {
			return g
		}
	}
	for i, g := range b.groups { // what rounding has left
		if share(i) > 0 {
			return g
		}
	}
	return nil
}

// another chooses an endpoint that was not tried, of the first groups that have
// one; nil: there is none.
func (b *Balancer) another(key Hash, tried func(int) bool) *host {
	for _, g := range b.groups {
		if rest := untried(g, tried); len(rest) > 0 {
			return b.among(g, rest, key, tried)
		}
	}
	return nil
}

// among chooses one of list, which is not empty and part of g's good ones.
func (b *Balancer) among(g *group, list []*host, key Hash, tried func(int) bool) *host {
	if len(list) == 1 {
		return list[0]
	}
	var now time.Time
	equal := g.equal
	if !g.warm.IsZero() {
		if now = b.o.Now(); now.Before(g.warm) {
			equal = false
		}
	}
	switch b.p.Algorithm {
	case RoundRobin:
		if equal {
			g.next++
			return list[g.next%uint64(len(list))]
		}
		return g.turn(list, func(h *host) float64 { return b.weight(h, now) })
	case Random:
		return b.random(list, g.equal)
	case RingHash, Maglev:
		return b.hashed(g, list, key, tried)
	}
	if equal {
		x, y := list[b.o.Rand()%uint64(len(list))], list[b.o.Rand()%uint64(len(list))]
		if y.active < x.active {
			return y
		}
		return x
	}
	return g.turn(list, func(h *host) float64 { return b.weight(h, now) / float64(h.active+1) })
}

// turn takes the one whose turn comes first, and has it come again after a time
// that is the less the greater its weight is (Envoy's scheduler: earliest deadline
// first).
func (g *group) turn(list []*host, weight func(*host) float64) *host {
	first := list[0]
	for _, h := range list[1:] {
		if h.turn < first.turn {
			first = h
		}
	}
	// One whose turn is long past could not be chosen for a while; it does not
	// catch up.
	g.now = max(g.now, first.turn)
	first.turn = g.now + 1/weight(first)
	return first
}

func (b *Balancer) random(list []*host, equal bool) *host {
	n := b.o.Rand()
	if equal {
		return list[n%uint64(len(list))]
	}
	total := 0.0
	for _, h := range list {
		total += weightOf(h)
	}
	at := fraction(n) * total
	for _, h := range list {
		if at -= weightOf(h); at < 0 {
			return h
		}
	}
	return list[len(list)-1]
}

func weightOf(h *host) float64 { return float64(max(h.Weight, 1)) }

// weight is an endpoint's weight at a time, when it may be warming up.
func (b *Balancer) weight(h *host, now time.Time) float64 {
	w := b.p.SlowStart
	if h.joined.IsZero() || w.Window <= 0 {
		return weightOf(h)
	}
	age := now.Sub(h.joined)
	if age >= w.Window {
		return weightOf(h)
	}
	part := math.Pow(max(0, float64(age)/float64(w.Window)), 1/cmp.Or(w.Aggression, 1))
	return weightOf(h) * max(part, cmp.Or(w.Least, 10)/100)
}

// fraction is a number from 0 to below 1.
func fraction(n uint64) float64 { return float64(n>>11) / (1 << 53) }
