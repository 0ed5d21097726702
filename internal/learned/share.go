// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/policy"
)

// Who gets the room that is left.
//
// There is no end of the names under a wildcard, and who owns the zone can
// point them all at one address, also at somebody else's. So they are counted
// apart from the hosts that are named exactly, whose number the operator
// knows. Of what they may have, three quarters are for whoever comes; when
// these are full, the workload that has most gives up the names that it has
// not asked for the longest, unless it has less than who asks. Where
// connections are open nothing is given up, and then the last quarter is for
// workloads that have little.

// errNodeFull: the names of all policies together fill their part of the
// kernel's tables.
var errNodeFull = fmt.Errorf("%w: names under the wildcards of all policies", ErrFull)

// Bounds by what is full.
var (
	errNameFull    = fmt.Errorf("%w: addresses of one name", ErrFull)
	errAddressFull = fmt.Errorf("%w: names of one address", ErrFull)
	errPolicyFull  = fmt.Errorf("%w: names of a policy", ErrFull)
)

// node sums over all policies what names under wildcards take.
type node struct {
	openings, serverNames atomic.Int64

	mu    sync.Mutex // guards stuck
	stuck stuck
}

// stuck remembers for a second that nothing could be evicted for a workload
// that holds mine: the next query need not look again.
type stuck struct {
	at   time.Time
	mine int
}

func (s stuck) is(now time.Time, mine int) bool {
	age := now.Sub(s.at)
	return age >= 0 && age < time.Second && mine >= s.mine
}

// account puts want in the place of what a has.
func (n *Names) account(t *table, a *address, want opened) {
	before := t.used.beyond(t.exact)
	t.used = t.used.minus(useOf(a.open)).plus(useOf(want.all))
	t.exact = t.exact.minus(useOf(a.exact)).plus(useOf(want.exact))
	change := t.used.beyond(t.exact).minus(before)
	n.node.openings.Add(int64(change.openings))
	n.node.serverNames.Add(int64(change.serverNames))
}

// Floors of a workload: what it may have of the last quarter, in names of one
// address and in pairs of a policy.
func (n *Names) addressFloor() int { return n.o.MaxNamesPerAddr / 32 }
func (n *Names) policyFloor() int {
	return min(n.o.MaxNames, n.o.MaxAddrs, n.o.MaxOpenings, n.o.MaxServerNames) / 64
}

// pool is what of a bound the names under wildcards may have.
func pool(bound int, little bool) int {
	if !little {
		bound -= bound / 4
	}
	return bound
}

// full says which bound keeps a pair out, nil when none does.
func (n *Names) full(t *table, w request, openings []policy.Opening, wild bool) error {
	a, addrs := t.addrs[w.addr], t.names[w.name]
	if a == nil {
		a = &address{}
	}
	if len(addrs) >= n.o.MaxAddrsPerName {
		return errNameFull
	}
	if !wild {
		more := n.after(t.exact, a.exact, openings)
		switch {
		case len(a.pairs)-a.wild >= n.o.MaxNamesPerAddr:
			return errAddressFull
		case a.onlyWild() && len(t.addrs)-t.wildAddrs >= n.o.MaxAddrs,
			addrs == nil && len(t.names)-t.wildNames >= n.o.MaxNames,
			more.openings > t.exact.openings && more.openings > n.o.MaxOpenings,
			more.serverNames > t.exact.serverNames && more.serverNames > n.o.MaxServerNames:
			return errPolicyFull
		}
		return nil
	}
	if a.wild >= pool(n.o.MaxNamesPerAddr, false) {
		if a.wild >= n.o.MaxNamesPerAddr || a.held()[w.by[0]] >= n.addressFloor() {
			return errAddressFull
		}
	}
	little := t.held[w.by[0]] < n.policyFloor()
	had := t.used.beyond(t.exact)
	more := n.after(t.used, a.open, openings).beyond(t.exact)
	switch {
	case t.addrs[w.addr] == nil && t.wildAddrs >= pool(n.o.MaxAddrs, little),
		addrs == nil && t.wildNames >= pool(n.o.MaxNames, little),
		more.openings > had.openings && more.openings > pool(n.o.MaxOpenings, little),
		more.serverNames > had.serverNames && more.serverNames > pool(n.o.MaxServerNames, little):
		return errPolicyFull
	}
	more = more.minus(had)
	if more.openings > 0 && int(n.node.openings.Load())+more.openings > pool(n.o.MaxNodeOpenings, little) ||
		more.serverNames > 0 && int(n.node.serverNames.Load())+more.serverNames > pool(n.o.MaxNodeServerNames, little) {
		return errNodeFull
	}
	return nil
}

// after is what is used when an address opens more than it has. Only near a
// bound it is counted exactly, which costs what the address has.
func (n *Names) after(used use, has, more []policy.Opening) use {
	all := used.plus(useOf(more))
	if all.openings < n.o.MaxOpenings/2 && all.serverNames < n.o.MaxServerNames/2 &&
		int(n.node.openings.Load()) < n.o.MaxNodeOpenings/2 && int(n.node.serverNames.Load()) < n.o.MaxNodeServerNames/2 {
		return all
	}
	return used.minus(useOf(has)).plus(useOf(merge(has, more)))
}

// room makes room for one more pair, or says what is full. It sweeps the
// table at most once a second, so that a full one costs little.
func (n *Names) room(t *table, id policy.PolicyID, w request, openings []policy.Opening, wild bool) error {
	err := n.full(t, w, openings, wild)
	if err != nil && w.now.Sub(t.swept) >= time.Second {
		_ = n.expire(t, id, w.now) // its errors stay dirty and are tried again
		err = n.full(t, w, openings, wild)
	}
	// A round may free what is not what is full (a name with many addresses),
	// and a kernel that can't be written frees nothing.
	for range 8 {
		freed := false
		switch {
		case errors.Is(err, errNameFull):
			freed = n.evict(t, id, n.idle(t.pairsOf(w.name), w), nil) > 0
		case errors.Is(err, errAddressFull) && wild:
			a := t.addrs[w.addr]
			freed = n.evictHeaviest(t, id, w, a.held(), a.wildPairs(nil, w.addr))
		case errors.Is(err, errPolicyFull) && wild && !t.stuck.is(w.now, t.held[w.by[0]]):
			mine := t.held[w.by[0]]
			if freed = n.evictHeaviest(t, id, w, t.held, t.wildPairs()); !freed {
				t.stuck = stuck{w.now, mine}
			}
		}
		if !freed {
			return err
		}
		err = n.full(t, w, openings, wild)
	}
	return err
}

// candidate is a pair that may be evicted.
type candidate struct {
	*pair
	name string
	addr netip.Addr
}

// idle leaves out the candidates to whose address connections are open:
// whether these may go on after a policy change is decided by it. It leaves
// out as well what is part of the same answer, or newer: an answer that is
// sent is open as a whole.
func (n *Names) idle(all []candidate, w request) []candidate {
	inUse := n.using.of(n, n.o.Now())
	return slices.DeleteFunc(all, func(c candidate) bool { return !c.asked.Before(w.now) || inUse(c.addr) })
}

// evictHeaviest evicts of those workloads that hold most of the candidates,
// all of which are under wildcards, until something is free. Those that hold
// no more than who asks are left alone, itself excepted.
func (n *Names) evictHeaviest(t *table, id policy.PolicyID, w request, held map[string]int, all []candidate) bool {
	by := map[string][]candidate{}
	for _, c := range n.idle(all, w) {
		for _, workload := range c.by {
			by[workload] = append(by[workload], c)
		}
	}
	asks := w.by[0]
	mine := held[asks]
	for _, workload := range byWeight(held) {
		if held[workload] <= mine && workload != asks {
			continue
		}
		if n.evict(t, id, by[workload], &workload) > 0 {
			return true
		}
	}
	return false
}

func byWeight(held map[string]int) []string {
	return slices.SortedFunc(maps.Keys(held), func(a, b string) int {
		return cmp.Or(cmp.Compare(held[b], held[a]), cmp.Compare(a, b))
	})
}

// evict takes from a workload (nil: from all) a sixteenth of the candidates,
// the ones that were not asked for the longest, and more until something is
// free. A pair that another workload asked for as well stays. It returns how
// many went.
func (n *Names) evict(t *table, id policy.PolicyID, all []candidate, workload *string) (freed int) {
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(a.asked.Compare(b.asked), cmp.Compare(a.name, b.name), a.addr.Compare(b.addr))
	})
	enough := max(1, len(all)/16)
	touched := map[netip.Addr]bool{}
	for i, c := range all {
		if i >= enough && freed > 0 {
			break
		}
		if workload != nil {
			if t.release(c.pair, *workload); len(c.by) > 0 {
				continue
			}
		}
		t.forget(c.name, c.addr, t.addrs[c.addr])
		t.lately.note(c.addr, c.name, n.o.Now())
		touched[c.addr] = true
		freed++
	}
	p := n.policies.Policy(id)
	for addr := range touched {
		a := t.addrs[addr]
		if err := n.settle(t, id, addr, a, n.wanted(p, addr, a)); err != nil {
			n.o.Log.Error("the address of a name that made room for others could not be closed in the kernel; it stays open until it works; egressd tries again", "error", err)
		}
	}
	n.evicted.Add(uint64(freed))
	return freed
}

// relieve makes room in the kernel's tables for w: of all policies' workloads
// the one that has most gives some up. No table's lock may be held.
func (n *Names) relieve(w request) bool {
	type holder struct {
		id       policy.PolicyID
		workload string
	}
	held := map[holder]int{}
	mine := 0
	for id, t := range n.all() {
		t.mu.RLock()
		for workload, count := range t.held {
			held[holder{id, workload}] = count
			if workload == w.by[0] {
				mine = max(mine, count)
			}
		}
		t.mu.RUnlock()
	}
	n.node.mu.Lock()
	defer n.node.mu.Unlock()
	if n.node.stuck.is(w.now, mine) {
		return false
	}
	order := slices.SortedFunc(maps.Keys(held), func(a, b holder) int {
		return cmp.Or(cmp.Compare(held[b], held[a]), cmp.Compare(a.id, b.id), cmp.Compare(a.workload, b.workload))
	})
	for _, h := range order {
		t := n.peek(h.id)
		if t == nil || held[h] <= mine && h.workload != w.by[0] {
			continue
		}
		t.mu.Lock()
		all := slices.DeleteFunc(n.idle(t.wildPairs(), w), func(c candidate) bool { return !slices.Contains(c.by, h.workload) })
		freed := n.evict(t, h.id, all, &h.workload)
		t.mu.Unlock()
		if freed > 0 {
			return true
		}
	}
	n.node.stuck = stuck{w.now, mine}
	return false
}

// held counts the names under wildcards by workload.
func (a *address) held() map[string]int {
	out := map[string]int{}
	for _, p := range a.pairs {
		if !p.wild {
			continue
		}
		for _, w := range p.by {
			out[w]++
		}
	}
	return out
}

func (t *table) pairsOf(name string) []candidate {
	var out []candidate
	for addr := range t.names[name] {
		out = append(out, candidate{t.addrs[addr].pairs[name], name, addr})
	}
	return out
}

// wildPairs appends the pairs of an address that only wildcards allow.
func (a *address) wildPairs(out []candidate, addr netip.Addr) []candidate {
	for name, p := range a.pairs {
		if p.wild {
			out = append(out, candidate{p, name, addr})
		}
	}
	return out
}

func (t *table) wildPairs() []candidate {
	var out []candidate
	for addr, a := range t.addrs {
		out = a.wildPairs(out, addr)
	}
	return out
}

// using remembers for a second which addresses have open connections: a
// workload that floods must not make egressd list all sockets for each name.
type using struct {
	mu    sync.Mutex
	at    time.Time
	inUse func(netip.Addr) bool
}

func (u *using) of(n *Names, now time.Time) func(netip.Addr) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if age := now.Sub(u.at); u.inUse == nil || age >= time.Second || age < 0 {
		u.at, u.inUse = now, n.inUseNow()
	}
	return u.inUse
}

// Evicted counts the pairs of name and address that made room for others.
func (n *Names) Evicted() uint64 { return n.evicted.Load() }
