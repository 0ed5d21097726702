// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// Phase says which half of a policy update Reapply does.
type Phase uint8

// The phases. An update tightens before user space changes over to the new
// policy and loosens after it, so that the kernel never lets more pass than
// both allow.
const (
	// Both brings the kernel to what the policy wants.
	Both Phase = iota
	// Tighten takes away what the policy no longer allows, and adds nothing.
	Tighten
	// Loosen is the same as Both: an answer learned between the two phases
	// may have opened something under the old policy.
	Loosen
)

// Expire forgets every name of an address whose time and grace are over and
// closes in the kernel what no other name keeps open. It also repeats kernel
// writes that failed before.
func (n *Names) Expire() error {
	now := n.o.Now()
	var errs []error
	for id, t := range n.all() {
		t.mu.Lock()
		errs = append(errs, n.expire(t, id, now))
		t.mu.Unlock()
	}
	return errors.Join(errs...)
}

// expire is Expire for one locked table.
func (n *Names) expire(t *table, id policy.PolicyID, now time.Time) error {
	t.swept = now
	p := n.policies.Policy(id)
	var errs []error
	inUse := n.inUse()
	for addr, a := range t.addrs {
		gone := false
		for name, pair := range a.pairs {
			if now.Before(pair.until.Add(n.o.Grace)) || inUse(addr) {
				continue
			}
			t.forget(name, addr, a)
			t.lately.note(addr, name, now)
			gone = true
		}
		if gone || a.dirty {
			errs = append(errs, n.settle(t, id, addr, a, n.wanted(p, addr, a)))
		}
	}
	return errors.Join(errs...)
}

// inUse returns a test for addresses with open connections. It asks once, and
// only when there is an address to test.
func (n *Names) inUse() func(netip.Addr) bool {
	ask := sync.OnceValue(n.inUseNow)
	return func(a netip.Addr) bool { return ask()(a) }
}

// inUseNow asks at once. When it can't be known every address counts as used.
func (n *Names) inUseNow() func(netip.Addr) bool {
	if n.o.InUse == nil {
		return func(netip.Addr) bool { return false }
	}
	used, err := n.o.InUse()
	if err != nil {
		n.o.Log.Warn("connections could not be listed", "error", err)
	}
	return func(a netip.Addr) bool { return used == nil || used[a] }
}

// Reapply computes anew what every learned address opens, against the newest
// policies. It goes on after errors and returns all of them; what failed is
// tried again by Expire.
func (n *Names) Reapply(phase Phase) error { return n.ReapplyTo(n.policies, phase) }

// ReapplyTo is Reapply against the policies of next: for tightening before
// next is what Policies returns.
func (n *Names) ReapplyTo(next Policies, phase Phase) error {
	var errs []error
	for id, t := range n.all() {
		t.mu.Lock()
		errs = append(errs, n.reapply(t, id, next.Policy(id), phase))
		t.mu.Unlock()
	}
	return errors.Join(errs...)
}

// Recheck forgets the pairs of name and address that the guard refuses by now,
// since the node's own addresses changed, whatever connections are open. It
// returns how many went.
func (n *Names) Recheck() (gone int, err error) {
	var errs []error
	for id, t := range n.all() {
		t.mu.Lock()
		p := n.policies.Policy(id)
		for addr, a := range t.addrs {
			before := len(a.pairs)
			for name := range a.pairs {
				if host := lookup(p, name); host != nil {
					if ok, _ := n.check(host, addr); !ok {
						t.forget(name, addr, a)
					}
				}
			}
			if less := before - len(a.pairs); less > 0 {
				gone += less
				errs = append(errs, n.settle(t, id, addr, a, n.wanted(p, addr, a)))
			}
		}
		t.mu.Unlock()
	}
	return gone, errors.Join(errs...)
}

// Changed are the hosts of each policy that may open something else than
// before; policies that are not in it have not changed.
type Changed map[policy.PolicyID][]hostname.Pattern

// ReapplyChanged is ReapplyTo for the names of some hosts.
func (n *Names) ReapplyChanged(next Policies, changed Changed, phase Phase) error {
	var errs []error
	for id, hosts := range changed {
		t := n.peek(id)
		if t == nil || len(hosts) == 0 {
			continue
		}
		t.mu.Lock()
		addrs := map[netip.Addr]bool{}
		for name := range t.namesOf(hosts) {
			for addr := range t.names[name] {
				addrs[addr] = true
			}
		}
		for addr := range addrs {
			errs = append(errs, n.reapplyOne(t, id, next.Policy(id), addr, t.addrs[addr], phase))
		}
		t.mu.Unlock()
	}
	return errors.Join(errs...)
}

// namesOf returns the learned names that the patterns match.
func (t *table) namesOf(hosts []hostname.Pattern) map[string]bool {
	out := map[string]bool{}
	var wild []hostname.Pattern
	for _, h := range hosts {
		if h.IsWildcard() {
			wild = append(wild, h)
		} else if _, ok := t.names[string(h)]; ok {
			out[string(h)] = true
		}
	}
	for name := range t.names {
		if slices.ContainsFunc(wild, func(h hostname.Pattern) bool { return h.Matches(name) }) {
			out[name] = true
		}
	}
	return out
}

// Inherit gives policy id what was learned for another, as far as it allows
// the names: for workloads that change their policy and keep their
// connections.
func (n *Names) Inherit(id, from policy.PolicyID) error {
	var saved []Saved
	if t := n.peek(from); t != nil {
		t.mu.RLock()
		for addr, a := range t.addrs {
			for name, pair := range a.pairs {
				saved = append(saved, pair.learned(id, name, addr))
			}
		}
		t.mu.RUnlock()
	}
	_, err := n.Restore(saved)
	return err
}

// Forget drops all that was learned for a policy that is no more.
func (n *Names) Forget(id policy.PolicyID) error {
	t := n.peek(id)
	if t == nil {
		return nil
	}
	t.mu.Lock()
	err := n.reapply(t, id, nil, Both)
	t.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		delete(n.tables, id)
	}
	return err
}

func (n *Names) reapply(t *table, id policy.PolicyID, p *policy.Policy, phase Phase) error {
	var errs []error
	for addr, a := range t.addrs {
		errs = append(errs, n.reapplyOne(t, id, p, addr, a, phase))
	}
	return errors.Join(errs...)
}

func (n *Names) reapplyOne(t *table, id policy.PolicyID, p *policy.Policy, addr netip.Addr, a *address, phase Phase) error {
	for name := range a.pairs {
		host := lookup(p, name)
		if host != nil {
			if ok, _ := n.check(host, addr); ok {
				if wild := host.Pattern.IsWildcard(); wild != a.pairs[name].wild {
					t.regrade(name, wild)
				}
				continue
			}
		}
		t.forget(name, addr, a)
	}
	want := n.wanted(p, addr, a)
	if phase == Tighten {
		want.all = tighten(a.open, want.all)
	}
	return n.settle(t, id, addr, a, want)
}

// settle writes want and drops the address when nothing is left of it.
func (n *Names) settle(t *table, id policy.PolicyID, addr netip.Addr, a *address, want opened) error {
	err := n.write(t, id, addr, a, want)
	if len(a.pairs) == 0 && len(a.open) == 0 && !a.dirty {
		t.dropAddress(addr)
	}
	return err
}

// write brings the kernel's entry of addr to want. Both callers and the
// kernel see openings sorted and without duplicates.
func (n *Names) write(t *table, id policy.PolicyID, addr netip.Addr, a *address, want opened) error {
	if a.dirty || !slices.Equal(a.open, want.all) {
		if err := n.kernel.SetAddress(id, addr, slices.Clone(want.all)); err != nil {
			a.dirty = true
			return fmt.Errorf("open %s for policy %d: %w", addr, id, err)
		}
	}
	n.account(t, a, want)
	a.open, a.exact, a.dirty = want.all, want.exact, false
	return nil
}

// wanted is what the names of a open under p; for an address that the guard
// refuses, nothing.
func (n *Names) wanted(p *policy.Policy, addr netip.Addr, a *address) opened {
	var want opened
	for _, name := range slices.Sorted(maps.Keys(a.pairs)) {
		host := lookup(p, name)
		if host == nil {
			continue
		}
		if ok, _ := n.check(host, addr); !ok {
			continue
		}
		o := p.Openings(name, addr)
		want.all = append(want.all, o...)
		if !host.Pattern.IsWildcard() {
			want.exact = append(want.exact, o...)
		}
	}
	return opened{merge(want.all, nil), merge(want.exact, nil)}
}

// Saved is one learned address, for keeping over a restart. Until is the
// end of the answer's time, without grace; Workloads asked for it.
type Saved struct {
	Policy policy.PolicyID `json:"policy"`
	Name   string          `json:"name"`
	Addr   netip.Addr      `json:"addr"`
	Until  time.Time       `json:"until"`

	Workloads []string `json:"workloads,omitempty"`
}

// Dump returns everything learned, sorted by policy, name and address.
func (n *Names) Dump() []Saved {
	var out []Saved
	for id, t := range n.all() {
		t.mu.RLock()
		for addr, a := range t.addrs {
			for name, pair := range a.pairs {
				out = append(out, pair.learned(id, name, addr))
			}
		}
		t.mu.RUnlock()
	}
	slices.SortFunc(out, compareLearned)
	return out
}

// Changes is a number that grows whenever Dump has something new to return.
func (n *Names) Changes() uint64 {
	var sum uint64
	for _, t := range n.all() {
		t.mu.RLock()
		sum += t.changes
		t.mu.RUnlock()
	}
	return sum
}

func compareLearned(a, b Saved) int {
	if a.Policy != b.Policy {
		return int(a.Policy) - int(b.Policy)
	}
	if a.Name != b.Name {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}
	return a.Addr.Compare(b.Addr)
}

// Restore learns what Dump returned, as far as it is not over, or used by
// an open connection, and today's
// policies and guard allow it. It returns how many were learned, and the
// errors of the kernel and of full tables.
func (n *Names) Restore(saved []Saved) (int, error) {
	now := n.o.Now()
	restored := 0
	inUse := n.inUse()
	var errs []error
	for _, l := range saved {
		// A clock that jumped, or a file that was tampered with, must not
		// keep an address longer than an answer could.
		until := l.Until
		if latest := now.Add(n.o.Cap); until.After(latest) {
			until = latest
		}
		if !now.Before(until.Add(n.o.Grace)) && !inUse(l.Addr) {
			continue
		}
		switch err := n.restore(l, until, now); {
		case err == nil:
			restored++
		case errors.Is(err, ErrName), errors.Is(err, ErrAddress):
		default:
			errs = append(errs, fmt.Errorf("restore %s: %w", l.Name, err))
		}
	}
	return restored, errors.Join(errs...)
}

func (n *Names) restore(l Saved, until, now time.Time) error {
	if n.policies.Policy(l.Policy) == nil {
		return ErrName
	}
	by := l.Workloads
	if len(by) == 0 {
		by = []string{""} // an account of its own: written by an older version
	}
	return n.answer(l.Policy, wish{name: l.Name, addr: l.Addr, by: by, until: until, now: now})
}

// all is a copy of the tables' index, so that no lock is held over the loop.
func (n *Names) all() map[policy.PolicyID]*table {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return maps.Clone(n.tables)
}

// Size is how much Names holds.
type Size struct {
	Policies  int `json:"policies"`
	Names     int `json:"names"`
	Addresses int `json:"addresses"`
	// Openings and Proofs are what they take in the kernel's tables.
	Openings int `json:"openings"`
	Proofs   int `json:"proofs"`
}

// Bounds is how much one policy may have, for hosts that are named exactly.
func (n *Names) Bounds() Size {
	return Size{
		Policies: 1, Names: n.o.MaxNames, Addresses: n.o.MaxAddrs,
		Openings: n.o.MaxOpenings, Proofs: n.o.MaxProofs,
	}
}

// Size counts what was learned, over all policies.
func (n *Names) Size() Size {
	var s Size
	for _, t := range n.all() {
		t.mu.RLock()
		s.Policies++
		s.Names += len(t.names)
		s.Addresses += len(t.addrs)
		s.Openings += t.used.openings
		s.Proofs += t.used.proofs
		t.mu.RUnlock()
	}
	return s
}
