// SPDX-License-Identifier: Apache-2.0

package balance

// updateFrequency is after how many attempts the priorities of those before are left
// out (istio pilot/pkg/networking/core/route/retry, UpdateFrequency).
const updateFrequency = 2

// PreviousPriorities are where the attempts of a request were: after every second one
// the next go to other priorities, as long as there are good endpoints in others
// (envoy.retry_priorities.previous_priorities). The zero value is a request without an
// attempt. It is for one request, and not safe for concurrent use.
type PreviousPriorities struct {
	attempted []uint8
	excluded  map[uint8]bool
}

// leaveOut finds the priorities that the next attempt leaves out.
func (p *PreviousPriorities) leaveOut() map[uint8]bool {
	if n := len(p.attempted); n >= updateFrequency && n%updateFrequency == 0 {
		p.excluded = make(map[uint8]bool, n)
		for _, at := range p.attempted {
			p.excluded[at] = true
		}
	}
	return p.excluded
}

// elsewhere chooses an endpoint of the priorities that the attempts before leave, by
// the odds of these, if need be one that was tried; nil: none is left out, or all are,
// and it begins again.
func (b *Balancer) elsewhere(before *PreviousPriorities, key Hash, tried func(int) bool) *host {
	if before == nil {
		return nil
	}
	out := before.leaveOut()
	if len(out) == 0 {
		return nil
	}
	odds := b.odds(func(priority uint8) bool { return out[priority] })
	g := b.group(key, odds)
	if g == nil {
		*before = PreviousPriorities{}
		return nil
	}
	if tried != nil {
		if rest := untried(g, tried); len(rest) > 0 {
			return b.among(g, rest, key, tried)
		}
	}
	return b.among(g, g.good, key, tried)
}

// untried are the good ones of a group that were not tried.
func untried(g *group, tried func(int) bool) (rest []*host) {
	for _, h := range g.good {
		if !tried(h.index) {
			rest = append(rest, h)
		}
	}
	return rest
}
