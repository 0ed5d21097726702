// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/hex"
	"maps"
	"slices"
)

// digest covers everything that a decision about the host depends on.
func (h *Host) digest() digest {
	var d digest
	d.text(func(l *lines) {
		t := &text{l}
		t.host(h)
		for _, r := range h.rules {
			t.line(2, "%v %d %d (%v)", r.prefix, r.port, r.rule.Number, r.service.Ref)
		}
	})
	return d
}

// digest covers everything but the number of the policy. What is as it was in
// the policy before is not looked at again.
func (p *Policy) digest(old *Policy) digest {
	var d digest
	d.text(func(l *lines) {
		t := &text{l}
		t.sum(p.hostSum)
		t.sum(p.addrs.sum)
		t.sum(p.cluster.sum)
		t.terms(p)
		for _, v := range p.vhostList {
			if was, ok := old.vhosts.Get(v.pattern); ok && slices.Equal(was.compiled, v.compiled) {
				v.sum = was.sum
			} else {
				v.sum.text(func(l *lines) { (&text{l}).vhost(v) })
			}
			t.sum(v.sum)
		}
		t.goneOn(p)
	})
	return d
}

// seal computes the snapshot's hash. The numbers of policies are no part of
// it: they depend on what was in force before. What was says of workloads that
// are the same is not looked at again.
func (s *Snapshot) seal(was *Snapshot) {
	policies := make(map[PolicyID]digest, len(s.policies))
	for _, p := range s.policies {
		policies[p.id] = p.sum
	}
	before := make(map[*Workload]*BoundWorkload, len(was.workloads))
	for i := range was.workloads {
		before[was.workloads[i].Workload] = &was.workloads[i]
	}
	var workloads digest // their names are unique
	first, more := make(map[string]string, len(s.workloads)), map[string][]string{}
	for i := range s.workloads {
		w := &s.workloads[i]
		for _, c := range w.Claims() {
			switch one, ok := first[c]; {
			case !ok:
				first[c] = w.Key()
			case more[c] == nil:
				more[c] = []string{one, w.Key()}
			default:
				more[c] = append(more[c], w.Key())
			}
		}
		if w.policySum = policies[w.Policy]; before[w.Workload] != nil && before[w.Workload].policySum == w.policySum {
			w.sum = before[w.Workload].sum
		} else {
			w.sum.text(func(t *lines) {
				t.line(0, "workload %s (%v)", workloadText(w.Workload), w.Ref)
				t.sum(w.policySum)
			})
		}
		workloads.toggle(w.sum)
	}
	s.sum.text(func(l *lines) {
		t := &text{l}
		if sum, ok := policies[DefaultPolicy]; ok {
			t.sum(sum)
		}
		t.sum(workloads)
		for _, c := range slices.Sorted(maps.Keys(more)) { // the first counts, nothing else has an order
			t.line(0, "cgroup %q of %q", c, more[c])
		}
		for _, l := range s.listeners {
			t.listener(l)
		}
		l.beside(s.Telemetry(), s.Telemetries())
	})
	s.hash = hex.EncodeToString(s.sum.decided())
}
