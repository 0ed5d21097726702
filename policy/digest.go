// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
)

// digest is the SHA-256 of a canonical text, or of a set of them: toggled
// together they do not depend on the order, so that a part can be replaced
// without looking at the others. It tells configurations apart that people
// write; it is not meant to withstand somebody who looks for collisions.
type digest [sha256.Size]byte

// toggle adds a part to the set, or takes it out.
func (d *digest) toggle(part digest) {
	for i := range d {
		d[i] ^= part[i]
	}
}

// text sets d to the digest of what write writes.
func (d *digest) text(write func(*text)) {
	h := sha256.New()
	t := &text{bufio.NewWriter(h)}
	write(t)
	_ = t.w.Flush() // a hash takes everything
	h.Sum(d[:0])
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

// digest covers everything but the number of the policy.
func (p *Policy) digest() digest {
	var d digest
	d.text(func(t *text) {
		_, _ = t.w.Write(p.hostSum[:])
		_, _ = t.w.Write(p.addrs.sum[:])
		t.rules(p)
	})
	return d
}

// seal computes the snapshot's hash.
func (s *Snapshot) seal() error {
	h := sha256.New()
	t := &text{bufio.NewWriter(h)}
	for _, p := range s.policies {
		t.line(0, "policy %d", p.id)
		_, _ = t.w.Write(p.sum[:])
	}
	t.workloads(s)
	for _, l := range s.listeners {
		t.listener(l)
	}
	if err := t.w.Flush(); err != nil {
		return err
	}
	s.hash = hex.EncodeToString(h.Sum(nil))
	return nil
}
