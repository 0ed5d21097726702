// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/policy"
)

// table is what one policy learned. Its lock is held while the kernel is
// written: two answers for one address must reach the kernel in the order in
// which they were merged here, and the one that finds nothing left to write
// must not be sent before the other has written it.
type table struct {
	mu sync.RWMutex
	// changes counts what Dump would show: pairs that came, went or were
	// seen again.
	changes uint64
	addrs   map[netip.Addr]*address
	names   map[string]map[netip.Addr]struct{}
	// narrowed are the addresses that Tighten looked at: Loosen may not find them
	// by their names any more.
	narrowed map[netip.Addr]bool
	// wildNames are the names that only a wildcard allows, wildAddrs the
	// addresses that no other name has.
	wildNames, wildAddrs int
	// held counts the pairs under wildcards by the workloads that asked.
	held map[string]int
	// used sums over the addresses, exact over what the hosts that are named
	// exactly would open alone.
	used, exact use
	swept       time.Time
	stuck       stuck
	lately      lately
}

// address is what is known of one address.
type address struct {
	pairs map[string]*pair // by name
	wild  int              // those of pairs that only a wildcard allows
	// open is what the kernel was last told, sorted; exact is what the hosts
	// that are named exactly would open alone. dirty says that a write failed,
	// so that the kernel may hold something else.
	open, exact []policy.Opening
	dirty       bool
	// sorted are the names of pairs, once somebody has asked; nil: not since they
	// changed. It is asked for with each request.
	sorted atomic.Pointer[[]string]
}

// names are the names of its pairs, sorted and not to be changed. t.mu is held.
func (a *address) names() []string {
	if known := a.sorted.Load(); known != nil {
		return *known
	}
	names := slices.Clip(slices.Sorted(maps.Keys(a.pairs)))
	a.sorted.Store(&names)
	return names
}

// opened is what an address opens.
type opened struct{ all, exact []policy.Opening }

// pair is one name on one address.
type pair struct {
	// until is the end of the answer's time (without grace), asked the last
	// time that somebody asked.
	until, asked time.Time
	wild         bool
	by           []string // workloads that asked, up to maxHolders
}

// maxHolders bounds the workloads that a pair remembers. A pair goes by
// eviction only when it was taken from all of them.
const maxHolders = 32

func (p *pair) learned(id policy.PolicyID, name string, addr netip.Addr) Saved {
	return Saved{Policy: id, Name: name, Addr: addr, Until: p.until, Workloads: slices.Clone(p.by)}
}

// use is what openings take in the kernel's tables.
type use struct{ openings, serverNames int }

func useOf(open []policy.Opening) use {
	u := use{openings: len(open)}
	for _, o := range open {
		if o.Name != "" {
			u.serverNames++
		}
	}
	return u
}

func (u use) plus(b use) use  { return use{u.openings + b.openings, u.serverNames + b.serverNames} }
func (u use) minus(b use) use { return use{u.openings - b.openings, u.serverNames - b.serverNames} }

// beyond is what of u is more than b.
func (u use) beyond(b use) use {
	return use{max(0, u.openings-b.openings), max(0, u.serverNames-b.serverNames)}
}

func newTable() *table {
	return &table{
		addrs: map[netip.Addr]*address{}, names: map[string]map[netip.Addr]struct{}{}, held: map[string]int{},
	}
}

func (t *table) addAddress(addr netip.Addr) *address {
	a := &address{pairs: map[string]*pair{}}
	t.addrs[addr] = a
	t.wildAddrs++ // until an exact name comes
	return a
}

// dropAddress removes an address that has no pairs.
func (t *table) dropAddress(addr netip.Addr) {
	delete(t.addrs, addr)
	t.wildAddrs--
}

// add makes a pair that is not there.
func (t *table) add(name string, addr netip.Addr, a *address, wild bool) {
	if t.names[name] == nil {
		t.names[name] = map[netip.Addr]struct{}{}
		if wild {
			t.wildNames++
		}
	}
	t.names[name][addr] = struct{}{}
	was := a.onlyWild()
	a.pairs[name] = &pair{wild: wild}
	a.sorted.Store(nil)
	if wild {
		a.wild++
	}
	t.recount(was, a)
}

// forget drops the pair of name and addr.
func (t *table) forget(name string, addr netip.Addr, a *address) {
	p := a.pairs[name]
	t.changes++
	was := a.onlyWild()
	for _, w := range slices.Clone(p.by) {
		t.release(p, w)
	}
	delete(a.pairs, name)
	a.sorted.Store(nil)
	if p.wild {
		a.wild--
	}
	t.recount(was, a)
	delete(t.names[name], addr)
	if len(t.names[name]) == 0 {
		delete(t.names, name)
		if p.wild {
			t.wildNames--
		}
	}
}

// regrade says whether only a wildcard allows name, after a policy change.
func (t *table) regrade(name string, wild bool) {
	changed := false
	for addr := range t.names[name] {
		a := t.addrs[addr]
		p := a.pairs[name]
		if p.wild == wild {
			continue
		}
		changed = true
		was := a.onlyWild()
		by := p.by
		for _, w := range slices.Clone(by) {
			t.release(p, w)
		}
		p.wild = wild
		for _, w := range by {
			t.hold(p, w)
		}
		if wild {
			a.wild++
		} else {
			a.wild--
		}
		t.recount(was, a)
	}
	switch {
	case changed && wild:
		t.wildNames++
	case changed:
		t.wildNames--
	}
}

// onlyWild says that no host that is named exactly has the address.
func (a *address) onlyWild() bool { return a.wild == len(a.pairs) }

func (t *table) recount(was bool, a *address) {
	switch is := a.onlyWild(); {
	case is && !was:
		t.wildAddrs++
	case was && !is:
		t.wildAddrs--
	}
}

// renew lets p count for at least as long as w wants, for w's workloads too.
func (t *table) renew(p *pair, w request) {
	if w.until.After(p.until) {
		p.until = w.until
		t.changes++
	}
	p.asked = w.now
	for _, workload := range w.by {
		t.hold(p, workload)
	}
}

func (t *table) hold(p *pair, workload string) {
	if slices.Contains(p.by, workload) || len(p.by) >= maxHolders {
		return
	}
	p.by = append(p.by, workload)
	if p.wild {
		t.held[workload]++
	}
}

func (t *table) release(p *pair, workload string) {
	i := slices.Index(p.by, workload)
	if i < 0 {
		return
	}
	p.by = slices.Concat(p.by[:i], p.by[i+1:])
	if !p.wild {
		return
	}
	if t.held[workload]--; t.held[workload] == 0 {
		delete(t.held, workload)
	}
}
