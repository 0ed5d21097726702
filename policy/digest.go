// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
)

// digest is the SHA-256 of a canonical text, or of a set of them: toggled
// together they do not depend on the order, so that a part can be replaced
// without looking at the others. The first half is of what is decided, the
// second of where that is written (files and lines): two nodes that read the
// same objects from other places decide alike. It tells configurations apart
// that people write; it is not meant to withstand somebody who looks for
// collisions.
type digest [2 * sha256.Size]byte

// toggle adds a part to the set, or takes it out.
func (d *digest) toggle(part digest) {
	for i := range d {
		d[i] ^= part[i]
	}
}

// text sets d to the digest of what write writes.
func (d *digest) text(write func(*text)) {
	what, where := sha256.New(), sha256.New()
	t := &text{w: bufio.NewWriterSize(what, 512), places: bufio.NewWriterSize(where, 128)}
	write(t)
	_ = t.w.Flush() // a hash takes everything
	_ = t.places.Flush()
	where.Sum(what.Sum(d[:0]))
}

// sum writes the digest of a part.
func (t *text) sum(d digest) {
	_, _ = t.w.Write(d[:sha256.Size])
	_, _ = t.places.Write(d[sha256.Size:])
}

// digest covers everything that a decision about the host depends on.
func (h *Host) digest() digest {
	var d digest
	d.text(func(t *text) {
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
	d.text(func(t *text) {
		t.sum(p.hostSum)
		t.sum(p.addrs.sum)
		t.sum(p.cluster.sum)
		t.terms(p)
		for _, v := range p.vhostList {
			if was, ok := old.vhosts.Get(v.pattern); ok && slices.Equal(was.compiled, v.compiled) {
				v.sum = was.sum
			} else {
				v.sum.text(func(t *text) { t.vhost(v) })
			}
			t.sum(v.sum)
		}
		t.goneOn(p)
	})
	return d
}

// beside writes what nothing is decided by, with the positions of objects: it tells
// configurations apart, and not what they decide.
func (t *text) beside(m MeshTelemetry) {
	if t.places != nil && m != (MeshTelemetry{}) {
		_, _ = fmt.Fprintf(t.places, "%q", m)
	}
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
		for _, c := range w.Cgroups {
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
			w.sum.text(func(t *text) {
				t.line(0, "workload %s (%v)", workloadText(w.Workload), w.Ref)
				t.sum(w.policySum)
			})
		}
		workloads.toggle(w.sum)
	}
	s.sum.text(func(t *text) {
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
		t.beside(s.Telemetry())
	})
	s.hash = hex.EncodeToString(s.sum[:sha256.Size])
}
