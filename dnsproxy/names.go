// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy"
)

// Kernel is the part of the kernel's tables that Names owns.
type Kernel interface {
	// SetAddress replaces what addr opens for policy id. No openings removes
	// the address. It returns after the tables are written.
	SetAddress(id policy.PolicyID, addr netip.Addr, openings []policy.Opening) error
}

// Policies gives the newest policy at each call; nil when id is unknown. It
// is called with locks of Names held and must not call back.
type Policies interface {
	Policy(id policy.PolicyID) *policy.Policy
}

// Errors of Learn.
var (
	// ErrFull: a bound was reached. Nothing is evicted to make room, since
	// every learned address may carry traffic.
	ErrFull = errors.New("no room for more learned addresses")
	// ErrName: no policy of that id allows the name.
	ErrName = errors.New("name not allowed")
	// ErrAddress: an address that the name must not have.
	ErrAddress = errors.New("address not allowed")
)

// NamesOptions tune Names; a zero field takes the default.
type NamesOptions struct {
	Guard ipguard.Guard
	// Floor and Cap bound the time that an answer counts (5 s and 1 h), and
	// Grace is how long the kernel keeps an address after that (60 s): for
	// programs that resolve once and connect a little later.
	Floor, Cap, Grace time.Duration
	// Interval is the time between two expiries in Run (5 s).
	Interval time.Duration
	// MaxAddrs and MaxNames bound a policy's addresses and names (65536 each),
	// MaxAddrsPerName (1024) and MaxNamesPerAddr (1024) one entry. MaxOpenings
	// (131072) and MaxProofs (32768) bound what a policy has of the kernel's
	// tables of addresses and of names, which all policies share: an eighth of
	// each. Names that only a wildcard allows may have three quarters of a
	// bound: there is no end of them, and the hosts that are named exactly must
	// not suffer.
	MaxAddrs, MaxNames, MaxAddrsPerName, MaxNamesPerAddr, MaxOpenings, MaxProofs int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// InUse lists the addresses that open connections go to. An address is
	// kept while it is in use, however old the answer: whether a connection
	// may go on after a policy change is decided by its address. nil: none.
	InUse func() (map[netip.Addr]bool, error)
	// Log takes failures of Run; nil discards them.
	Log *slog.Logger
}

func (o NamesOptions) withDefaults() NamesOptions {
	setDefault(&o.Floor, 5*time.Second)
	setDefault(&o.Cap, time.Hour)
	setDefault(&o.Grace, time.Minute)
	setDefault(&o.Interval, 5*time.Second)
	setDefault(&o.MaxAddrs, 1<<16)
	setDefault(&o.MaxNames, 1<<16)
	setDefault(&o.MaxAddrsPerName, 1024)
	setDefault(&o.MaxNamesPerAddr, 1024)
	setDefault(&o.MaxOpenings, 1<<17)
	setDefault(&o.MaxProofs, 1<<15)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Names holds the learned addresses of every policy and keeps the kernel's
// tables equal to them. It is safe for concurrent use.
type Names struct {
	kernel   Kernel
	policies Policies
	o        NamesOptions

	mu     sync.RWMutex // guards tables, not what they hold
	tables map[policy.PolicyID]*table
}

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
	// used sums over the addresses.
	used  use
	swept time.Time
}

// use is what openings take in the kernel's tables.
type use struct{ openings, proofs int }

func useOf(open []policy.Opening) use {
	u := use{openings: len(open)}
	for _, o := range open {
		if o.Name != "" {
			u.proofs++
		}
	}
	return u
}

func (u use) plus(b use) use  { return use{u.openings + b.openings, u.proofs + b.proofs} }
func (u use) minus(b use) use { return use{u.openings - b.openings, u.proofs - b.proofs} }

type address struct {
	// until is the end of the answer's time (without grace), by name.
	until map[string]time.Time
	// open is what the kernel was last told, sorted; dirty says that a write
	// failed, so that the kernel may hold something else.
	open  []policy.Opening
	dirty bool
}

// NewNames returns an empty Names that writes to k and reads policies from p.
func NewNames(k Kernel, p Policies, o NamesOptions) *Names {
	return &Names{kernel: k, policies: p, o: o.withDefaults(), tables: map[policy.PolicyID]*table{}}
}

// Answer is one address of a DNS answer with its time to live.
type Answer struct {
	Addr netip.Addr
	TTL  time.Duration
}

// Learn records that name has the addresses for policy id. When it returns
// nil the kernel lets them pass as the policy says. Errors wrap ErrName,
// ErrAddress, ErrFull or the kernel's; what was learned before the error
// stays, since each address was good by itself.
func (n *Names) Learn(id policy.PolicyID, name string, answers []Answer) error {
	if n.policies.Policy(id) == nil {
		return fmt.Errorf("learn %s: policy %d: %w", name, id, ErrName)
	}
	now := n.o.Now()
	t := n.table(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	// Read under the table's lock: a Reapply that runs later has seen at
	// least this policy and corrects what is written here.
	p := n.policies.Policy(id)
	host := lookup(p, name)
	if host == nil {
		return fmt.Errorf("learn %s: %w", name, ErrName)
	}
	for _, a := range answers {
		if ok, class := n.check(host, a.Addr); !ok {
			return fmt.Errorf("learn %s: %s is %s: %w", name, a.Addr, class, ErrAddress)
		}
		until := now.Add(min(max(a.TTL, n.o.Floor), n.o.Cap))
		if err := n.learn(t, id, p, host, name, a.Addr, until, now); err != nil {
			return fmt.Errorf("learn %s: %w", name, err)
		}
	}
	return nil
}

func (n *Names) learn(t *table, id policy.PolicyID, p *policy.Policy, host *policy.Host, name string, addr netip.Addr, until, now time.Time) error {
	a := t.addrs[addr]
	if a != nil {
		if _, ok := a.until[name]; ok && !a.dirty {
			t.extend(a, name, until)
			return nil
		}
	}
	if err := n.room(t, id, p, host, name, addr, now); err != nil {
		return err
	}
	// room may have swept the table.
	if a = t.addrs[addr]; a == nil {
		a = &address{until: map[string]time.Time{}}
		t.addrs[addr] = a
	}
	want := merge(a.open, p.Openings(name, addr))
	if a.dirty {
		want = merge(n.wanted(p, addr, a), p.Openings(name, addr))
	}
	if err := n.write(t, id, addr, a, want); err != nil {
		return err // a is dirty now: Expire puts the kernel right
	}
	t.extend(a, name, until)
	if t.names[name] == nil {
		t.names[name] = map[netip.Addr]struct{}{}
	}
	t.names[name][addr] = struct{}{}
	return nil
}

// extend lets name have a for at least as long as until.
func (t *table) extend(a *address, name string, until time.Time) {
	if until.After(a.until[name]) {
		a.until[name] = until
		t.changes++
	}
}

// room says whether one more pair of name and addr may be added; it sweeps
// the table at most once a second, so that a full one costs little.
func (n *Names) room(t *table, id policy.PolicyID, p *policy.Policy, host *policy.Host, name string, addr netip.Addr, now time.Time) error {
	share := func(bound int) int {
		if host.Pattern.IsWildcard() {
			bound -= bound / 4
		}
		return bound
	}
	openings := p.Openings(name, addr)
	full := func() bool {
		a, names := t.addrs[addr], t.names[name]
		var open []policy.Opening
		if a != nil {
			open = a.open
		}
		more := t.used.minus(useOf(open)).plus(useOf(merge(open, openings)))
		return a == nil && len(t.addrs) >= share(n.o.MaxAddrs) ||
			names == nil && len(t.names) >= share(n.o.MaxNames) ||
			len(names) >= n.o.MaxAddrsPerName ||
			a != nil && len(a.until) >= n.o.MaxNamesPerAddr ||
			more.openings > t.used.openings && more.openings > share(n.o.MaxOpenings) ||
			more.proofs > t.used.proofs && more.proofs > share(n.o.MaxProofs)
	}
	if !full() {
		return nil
	}
	if now.Sub(t.swept) >= time.Second {
		n.expire(t, id, now) // its errors stay dirty and are tried again
		if !full() {
			return nil
		}
	}
	return ErrFull
}

// NamesOf returns the names that addr was learned for, sorted; those in grace
// included.
func (n *Names) NamesOf(id policy.PolicyID, addr netip.Addr) []string {
	t := n.peek(id)
	if t == nil {
		return nil
	}
	now := n.o.Now()
	t.mu.RLock()
	defer t.mu.RUnlock()
	a := t.addrs[addr.Unmap()]
	if a == nil {
		return nil
	}
	names := make([]string, 0, len(a.until))
	for name, until := range a.until {
		if now.Before(until.Add(n.o.Grace)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// AddrsOf returns the addresses that name was learned with, sorted; those in
// grace included.
func (n *Names) AddrsOf(id policy.PolicyID, name string) []netip.Addr {
	t := n.peek(id)
	if t == nil {
		return nil
	}
	now := n.o.Now()
	t.mu.RLock()
	defer t.mu.RUnlock()
	addrs := make([]netip.Addr, 0, len(t.names[name]))
	for addr := range t.names[name] {
		if now.Before(t.addrs[addr].until[name].Add(n.o.Grace)) {
			addrs = append(addrs, addr)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// Run expires what is old until ctx is done.
func (n *Names) Run(ctx context.Context) {
	tick := time.NewTicker(n.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := n.Expire(); err != nil {
				n.o.Log.Error("learned addresses could not be expired", "err", err)
			}
		}
	}
}

func (n *Names) table(id policy.PolicyID) *table {
	if t := n.peek(id); t != nil {
		return t
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tables[id] == nil {
		n.tables[id] = &table{addrs: map[netip.Addr]*address{}, names: map[string]map[netip.Addr]struct{}{}}
	}
	return n.tables[id]
}

func (n *Names) peek(id policy.PolicyID) *table {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.tables[id]
}

func (n *Names) check(h *policy.Host, addr netip.Addr) (bool, ipguard.Class) {
	return n.o.Guard.Check(addr, guardOptions(h))
}

// guardOptions are the address rules of host h. A nil host is a destination
// of the node itself (a Kubernetes Service), for which private addresses are
// the rule.
func guardOptions(h *policy.Host) ipguard.Options {
	if h == nil {
		return ipguard.Options{Exact: true}
	}
	return ipguard.Options{Exact: !h.Pattern.IsWildcard(), AllowPrivate: h.AllowPrivate, Literal: h.Literal}
}

func lookup(p *policy.Policy, name string) *policy.Host {
	if p == nil {
		return nil
	}
	return p.Lookup(name)
}
