// SPDX-License-Identifier: Apache-2.0

// Package learned is the node's table of learned addresses: which addresses the
// names that policies allow were answered with, and for how long they count. It
// keeps the kernel's tables equal to that.
package learned

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
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
	// ErrFull: a bound was reached, and there was nothing that could be
	// evicted: what connections are open to never is.
	ErrFull = errors.New("no room for more learned addresses")
	// ErrName: no policy of that id allows the name.
	ErrName = errors.New("name not allowed")
	// ErrAddress: an address that the name must not have.
	ErrAddress = errors.New("address not allowed")
)

// Defaults of Options.
const (
	DefaultFloor = 5 * time.Second
	DefaultCap   = time.Hour
	DefaultGrace = time.Minute
)

// Options tune Names; a zero field takes the default.
type Options struct {
	Guard ipguard.Guard
	// Floor and Cap bound the time that an answer counts (5 s and 1 h), and
	// Grace is how long the kernel keeps an address after that (60 s): for
	// programs that resolve once and connect a little later.
	Floor, Cap, Grace time.Duration
	// Interval is the time between two expiries in Run (5 s).
	Interval time.Duration
	// MaxAddrs and MaxNames bound a policy's addresses and names (65536 each),
	// MaxAddrsPerName (1024) and MaxNamesPerAddr (1024) one entry. MaxOpenings
	// (131072) and MaxServerNames (32768) bound what a policy has of the kernel's
	// tables of addresses and of names, which all policies share: an eighth of
	// each. The names that only a wildcard allows are counted apart from the
	// hosts that are named exactly, so that neither takes the other's room.
	MaxAddrs, MaxNames, MaxAddrsPerName, MaxNamesPerAddr, MaxOpenings, MaxServerNames int
	// MaxNodeOpenings (524288) and MaxNodeServerNames (131072) bound what the names
	// under the wildcards of all policies have of these tables: a half of each.
	MaxNodeOpenings, MaxNodeServerNames int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// InUse lists the addresses that open connections go to. An address is
	// kept while it is in use, however old the answer: whether a connection
	// may go on after a policy change is decided by its address. nil: none.
	InUse func() (map[netip.Addr]bool, error)
	// Log takes failures of Run; nil discards them.
	Log *slog.Logger
}

func (o Options) withDefaults() Options {
	setDefault(&o.Floor, DefaultFloor)
	setDefault(&o.Cap, DefaultCap)
	setDefault(&o.Grace, DefaultGrace)
	setDefault(&o.Interval, 5*time.Second)
	setDefault(&o.MaxAddrs, 1<<16)
	setDefault(&o.MaxNames, 1<<16)
	setDefault(&o.MaxAddrsPerName, 1024)
	setDefault(&o.MaxNamesPerAddr, 1024)
	setDefault(&o.MaxOpenings, 1<<17)
	setDefault(&o.MaxServerNames, 1<<15)
	setDefault(&o.MaxNodeOpenings, 1<<19)
	setDefault(&o.MaxNodeServerNames, 1<<17)
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
	o        Options

	mu     sync.RWMutex // guards tables, not what they hold
	tables map[policy.PolicyID]*table

	node    node
	evicted atomic.Uint64
	using   using
	noted   noted
	heir    atomic.Pointer[Successor]
}

// Successor learns what was learned here before the answer is given: another egressd
// whose tables are in force by now. It may fail, which it says itself.
type Successor func(workload, name string, answers []Record)

// SetHeir makes Learn tell h; nil: nobody.
func (n *Names) SetHeir(h Successor) {
	if h == nil {
		n.heir.Store(nil)
		return
	}
	n.heir.Store(&h)
}

// New returns an empty Names that writes to k and reads policies from p.
func New(k Kernel, p Policies, o Options) *Names {
	return &Names{
		kernel: k, policies: p, o: o.withDefaults(), tables: map[policy.PolicyID]*table{},
		noted: noted{by: map[string]*notes{}},
	}
}

// Options are those that Names has, with the defaults filled in.
func (n *Names) Options() Options { return n.o }

// Record is one address of a DNS answer with its time to live.
type Record struct {
	Addr netip.Addr
	TTL  time.Duration
}

// Learn records that name has the addresses for policy id, as workload was
// told. When it returns nil the kernel lets them pass as the policy says.
// Errors wrap ErrName, ErrAddress, ErrFull or the kernel's; what was learned
// before the error stays, since each address was good by itself.
func (n *Names) Learn(id policy.PolicyID, workload, name string, answers []Record) error {
	if n.policies.Policy(id) == nil {
		return fmt.Errorf("learn %s: policy %d: %w", name, id, ErrName)
	}
	now := n.o.Now()
	for _, a := range answers {
		err := n.answer(id, request{
			name: name, addr: a.Addr, by: []string{workload},
			until: now.Add(min(max(a.TTL, n.o.Floor), n.o.Cap)), now: now,
		})
		if err != nil {
			return fmt.Errorf("learn %s: %w", name, err)
		}
	}
	if h := n.heir.Load(); h != nil {
		(*h)(workload, name, answers)
	}
	return nil
}

// request is one pair of name and address that is to be learned.
type request struct {
	name       string
	addr       netip.Addr
	by         []string // the workloads that know it; the first asks
	until, now time.Time
}

// answer is Learn for one address. When the node's tables are full of other
// policies' names it makes room there, without a lock of its own, and tries
// again.
func (n *Names) answer(id policy.PolicyID, w request) error {
	for again := true; ; again = false {
		err := n.answerOnce(id, w)
		if !again || !errors.Is(err, errNodeFull) || !n.relieve(w) {
			return err
		}
	}
}

func (n *Names) answerOnce(id policy.PolicyID, w request) error {
	t := n.table(id)
	t.mu.Lock()
	defer t.mu.Unlock()
	// Read under the table's lock: a Reapply that runs later has seen at
	// least this policy and corrects what is written here.
	p := n.policies.Policy(id)
	host := lookup(p, w.name)
	if host == nil {
		return ErrName
	}
	if ok, class := n.check(host, w.addr); !ok {
		return fmt.Errorf("%s is %s: %w", w.addr, class, ErrAddress)
	}
	return n.learn(t, id, p, host, w)
}

func (n *Names) learn(t *table, id policy.PolicyID, p *policy.Policy, host *policy.Host, w request) error {
	a := t.addrs[w.addr]
	if a != nil && a.pairs[w.name] != nil && !a.dirty {
		t.renew(a.pairs[w.name], w)
		return nil
	}
	wild := host.Pattern.IsWildcard()
	t.regrade(w.name, wild) // a policy update is under way
	openings := p.Openings(w.name, w.addr)
	if err := n.room(t, id, w, openings, wild); err != nil {
		return err
	}
	// room may have swept the table.
	if a = t.addrs[w.addr]; a == nil {
		a = t.addAddress(w.addr)
	}
	have := opened{a.open, a.exact}
	if a.dirty {
		have = n.wanted(p, w.addr, a)
	}
	want := opened{merge(have.all, openings), have.exact}
	if !wild {
		want.exact = merge(have.exact, openings)
	}
	if err := n.write(t, id, w.addr, a, want); err != nil {
		return err // a is dirty now: Expire puts the kernel right
	}
	if a.pairs[w.name] == nil {
		t.add(w.name, w.addr, a, wild)
	}
	t.renew(a.pairs[w.name], w)
	return nil
}

// NamesOf returns the names that addr was learned for, sorted: all for which
// the kernel lets connections to it pass. A name goes when Expire, a policy
// update or an eviction takes it from the kernel, under the same lock, and not
// when its time is over: the kernel has no clock, and what it lets pass must
// not be refused behind it.
func (n *Names) NamesOf(id policy.PolicyID, addr netip.Addr) []string {
	t := n.peek(id)
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	a := t.addrs[addr.Unmap()]
	if a == nil {
		return nil
	}
	return a.names()
}

// AddrsOf returns the addresses that name was learned with, sorted; those in
// grace included. Older ones, which are open for the connections that they have
// or because nothing has expired them yet, are not: the name may have given
// them up, and is asked for again.
func (n *Names) AddrsOf(id policy.PolicyID, name string) []netip.Addr {
	now := n.o.Now()
	return n.addrsOf(id, name, func(p *pair) bool { return now.Before(p.until.Add(n.o.Grace)) })
}

// OpenAddrsOf returns all addresses that are open for name, sorted.
func (n *Names) OpenAddrsOf(id policy.PolicyID, name string) []netip.Addr {
	return n.addrsOf(id, name, func(*pair) bool { return true })
}

func (n *Names) addrsOf(id policy.PolicyID, name string, want func(*pair) bool) []netip.Addr {
	t := n.peek(id)
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	addrs := make([]netip.Addr, 0, len(t.names[name]))
	for addr := range t.names[name] {
		if want(t.addrs[addr].pairs[name]) {
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
				n.o.Log.Error("some learned addresses that have expired could not be closed in the kernel; they stay open until it works; egressd tries again", "error", err)
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
		n.tables[id] = newTable()
	}
	return n.tables[id]
}

func (n *Names) peek(id policy.PolicyID) *table {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.tables[id]
}

func (n *Names) check(h *policy.Host, addr netip.Addr) (bool, ipguard.Class) {
	return n.o.Guard.Check(addr, GuardOptions(h))
}

// GuardOptions are the address rules of host h. A nil host is a destination
// of the node itself (a Kubernetes Service), for which private addresses are
// the rule.
func GuardOptions(h *policy.Host) ipguard.Options {
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
