// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"math"
	"slices"
	"strings"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/policy"
)

// places says how the localities of endpoints count beside this node's, as Istio
// sets priorities and weights for Envoy (istio pilot/pkg/networking/core/
// loadbalancer).
type places struct {
	own      [3]string
	known    bool
	failover []policy.Failover
	priority bool // by locality: there is outlier detection, without which nothing would fail over
	// labels are compared with an endpoint's, before its locality is.
	labels []policy.FailoverLabel
	// numbers of localities, and shares by number; nil: all count alike.
	numbers map[string]uint16
	shares  []uint32
}

func newPlaces(own string, u *policy.Upstream, n int) *places {
	p := &places{own: split(own), known: own != ""}
	t := u.Traffic
	if t == nil {
		return p
	}
	if p.labels = p.compared(u.Failover); !p.known {
		return p
	}
	var said *policy.Locality
	if t.LoadBalancer != nil {
		said = t.LoadBalancer.Locality
	}
	switch {
	case said != nil && said.Disabled:
	case said != nil && len(said.Distribute) > 0:
		for i := range said.Distribute {
			if d := &said.Distribute[i]; within(p.own, d.From) {
				p.distribute(d, u, n)
				break
			}
		}
	default:
		p.priority = t.Outlier != nil
		if said != nil {
			p.failover = said.Failover
		}
	}
	return p
}

// distribute gives each locality its part of the traffic: that of a place is
// divided among the localities in it by their weights.
func (p *places) distribute(d *policy.Distribute, u *policy.Upstream, n int) {
	p.numbers = map[string]uint16{}
	var weights []float64
	var names []string
	for i := range n {
		l := localityAt(u, i)
		if _, ok := p.numbers[l]; !ok {
			p.numbers[l] = uint16(len(names) + 1) //nolint:gosec // as many as there are endpoints, of which 4,096 are the most
			names, weights = append(names, l), append(weights, 0)
		}
		weights[p.numbers[l]-1] += float64(max(weightAt(u, i), 1))
	}
	p.shares = make([]uint32, len(names)+1)
	for _, to := range d.To {
		total := 0.0
		for i, l := range names {
			if p.shares[i+1] == 0 && within(split(l), to.Locality) {
				total += weights[i]
			}
		}
		for i, l := range names {
			if p.shares[i+1] == 0 && within(split(l), to.Locality) {
				p.shares[i+1] = uint32(math.Ceil(weights[i] * float64(to.Percent) / total))
			}
		}
	}
}

// put sets what e's labels and locality mean; false: it is not used.
func (p *places) put(e *balance.Member, locality string, labels map[string]string) bool {
	if p.numbers != nil {
		e.Locality = p.numbers[locality]
		e.Share = p.shares[e.Locality]
		return e.Share > 0
	}
	priority := p.unlike(split(locality), labels)
	if p.priority && (len(p.labels) == 0 || len(p.failover) > 0) {
		priority = priority*distances + int(p.distance(split(locality)))
	}
	e.Priority = uint8(min(priority, math.MaxUint8)) //nolint:gosec // not negative
	return true
}

// distances is how many there are.
const distances = 5

// topology are the labels that say where a node or an endpoint is.
var topology = [3]string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"}

// compared are the labels with this node's place, where it is known, as the value of
// those that say where something is (istio pkg/labels AugmentLabels).
func (p *places) compared(labels []policy.FailoverLabel) []policy.FailoverLabel {
	labels = slices.Clone(labels)
	for i := range labels {
		if at := slices.Index(topology[:], labels[i].Name); at >= 0 && !labels[i].Fixed && p.own[at] != "" {
			labels[i].Value = p.own[at]
		}
	}
	return labels
}

// unlike is 0 for an endpoint that has the values of all labels, else the greater the
// earlier one comes that it has another value of.
func (p *places) unlike(l [3]string, labels map[string]string) int {
	for i, want := range p.labels {
		have := labels[want.Name]
		if at := slices.Index(topology[:], want.Name); at >= 0 && l[at] != "" {
			have = l[at]
		}
		if have != want.Value {
			return len(p.labels) - i
		}
	}
	return 0
}

// distance is 0 for this node's own place, 1 for its zone, 2 for its region, 3
// for others, 4 for regions that are not the one to fail over to.
func (p *places) distance(l [3]string) uint8 {
	for i := range l {
		if l[i] == p.own[i] {
			continue
		}
		if i > 0 {
			return uint8(3 - i)
		}
		for _, f := range p.failover {
			if f.From == p.own[0] {
				if f.To != l[0] {
					return 4
				}
				break
			}
		}
		return 3
	}
	return 0
}

func split(locality string) (out [3]string) {
	copy(out[:], strings.SplitN(locality, "/", 3))
	return out
}

// within says whether l is in the place that a rule names: "*" and what is missing
// stand for everything.
func within(l [3]string, rule string) bool {
	r := split(rule)
	for i := range l {
		if r[i] != "*" && r[i] != l[i] && (i == 0 || r[i] != "") {
			return false
		}
	}
	return true
}
