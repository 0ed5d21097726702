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
		n.o.Log.Warn("open connections could not be listed; no learned address is closed until they can", "error", err)
	}
	return func(a netip.Addr) bool { return used == nil || used[a] }
}

// Tighten takes away what a change no longer opens, before user space changes
// over to it, and opens nothing. It goes on after errors and returns all of them;
// what failed is tried again by Expire.
func (n *Names) Tighten(c policy.Change) error { return n.apply(c, true) }

// Loosen brings the policies of a change to exactly what it says, when they are
// those in force: what was learned since Tighten may have opened something under
// the policies before. Workloads that change their policy and keep their
// connections get what was learned under the one before, as far as it is allowed.
func (n *Names) Loosen(c policy.Change) error {
	var errs []error
	for _, m := range c.Moves {
		errs = append(errs, n.inherit(m.To, m.From))
	}
	return errors.Join(append(errs, n.apply(c, false))...)
}

// Retire drops all that was learned for policies that are not there after a
// change.
func (n *Names) Retire(c policy.Change) error {
	var errs []error
	for id := range n.all() {
		if !c.Has(id) {
			errs = append(errs, n.forget(id))
		}
	}
	return errors.Join(errs...)
}

// apply computes anew what the addresses open that a change may change.
func (n *Names) apply(c policy.Change, tighten bool) error {
	var errs []error
	for _, p := range c.Policies {
		t := n.peek(p.ID)
		if t == nil || p.Next == nil {
			continue
		}
		t.mu.Lock()
		addrs := t.addrsOf(p)
		if tighten {
			t.narrowed = maps.Clone(addrs)
		} else {
			maps.Copy(addrs, t.narrowed)
			t.narrowed = nil
		}
		for addr := range addrs {
			if a := t.addrs[addr]; a != nil {
				errs = append(errs, n.reapply(t, p, addr, a, tighten))
			}
		}
		t.mu.Unlock()
	}
	return errors.Join(errs...)
}

// addrsOf are the addresses that a change may change.
func (t *table) addrsOf(p policy.PolicyChange) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	if p.AllHosts {
		for addr := range t.addrs {
			out[addr] = true
		}
		return out
	}
	for name := range t.namesOf(p.Hosts) {
		for addr := range t.names[name] {
			out[addr] = true
		}
	}
	return out
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

// inherit gives policy id what was learned for another, as far as it allows
// the names.
func (n *Names) inherit(id, from policy.PolicyID) error {
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
	_, err := n.Restore(saved, func(string) (policy.PolicyID, bool) { return id, true })
	return err
}

func (n *Names) forget(id policy.PolicyID) error {
	t := n.peek(id)
	if t == nil {
		return nil
	}
	var errs []error
	t.mu.Lock()
	for addr, a := range t.addrs {
		errs = append(errs, n.reapply(t, policy.PolicyChange{ID: id}, addr, a, false))
	}
	t.mu.Unlock()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.tables, id)
	return nil
}

// reapply computes anew what an address opens by what a policy says now.
func (n *Names) reapply(t *table, c policy.PolicyChange, addr netip.Addr, a *address, narrow bool) error {
	for name := range a.pairs {
		host := lookup(c.Next, name)
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
	want := n.wanted(c.Next, addr, a)
	if narrow {
		want.all = tighten(a.open, want.all, c.Unknown)
	}
	return n.settle(t, c.ID, addr, a, want)
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
	for _, name := range a.names() {
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
// policies and guard allow it. Policies had other numbers in the process that learned
// it, so it is learned for the policies that its workloads have today, which policyOf
// tells by a workload's name; what it does not know of has the default policy, if it had
// that. Restore returns how many were learned, and the errors of the kernel and of full
// tables.
func (n *Names) Restore(saved []Saved, policyOf func(workload string) (policy.PolicyID, bool)) (int, error) {
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
		learned := false
		for id, by := range l.today(policyOf) {
			if n.policies.Policy(id) == nil {
				continue
			}
			switch err := n.answer(id, request{name: l.Name, addr: l.Addr, by: by, until: until, now: now}); {
			case err == nil:
				learned = true
			case errors.Is(err, ErrName), errors.Is(err, ErrAddress):
			default:
				errs = append(errs, fmt.Errorf("restore %s: %w", l.Name, err))
			}
		}
		if learned {
			restored++
		}
	}
	return restored, errors.Join(errs...)
}

// today are the workloads that asked, by the policies that they have today.
func (l *Saved) today(policyOf func(workload string) (policy.PolicyID, bool)) map[policy.PolicyID][]string {
	if len(l.Workloads) == 0 { // written by an older version
		return map[policy.PolicyID][]string{l.Policy: {""}} // an account of its own
	}
	of := map[policy.PolicyID][]string{}
	for _, w := range l.Workloads {
		id, ok := policyOf(w)
		if !ok && l.Policy == policy.DefaultPolicy {
			id, ok = l.Policy, true // which has the same number in each process
		}
		if ok {
			of[id] = append(of[id], w)
		}
	}
	return of
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
	// Openings and ServerNames are what they take in the kernel's tables.
	Openings    int `json:"openings"`
	ServerNames int `json:"serverNames"`
}

// Bounds is how much one policy may have, for hosts that are named exactly.
func (n *Names) Bounds() Size {
	return Size{
		Policies: 1, Names: n.o.MaxNames, Addresses: n.o.MaxAddrs,
		Openings: n.o.MaxOpenings, ServerNames: n.o.MaxServerNames,
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
		s.ServerNames += t.used.serverNames
		t.mu.RUnlock()
	}
	return s
}
