// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// bothFamilies are an address of each.
var bothFamilies = []string{"203.0.113.1", "2001:4860::1"}

// TestOneAddressFlooded: a workload that asks for names without end, all of
// one address, loses the oldest of them and nobody else anything.
func TestOneAddressFlooded(t *testing.T) {
	for _, addr := range bothFamilies {
		t.Run(addr, func(t *testing.T) {
			r := newNamesRig(t, Options{})
			r.pol.Store(learnedtest.Compile(t, learnedtest.ExactServices(400)...))
			learn := func(workload, name string) error {
				r.clock.Advance(time.Millisecond)
				return r.Learn(id, workload, name, answers(time.Hour, addr))
			}
			if err := learn("b", "shared.wild.test"); err != nil {
				t.Fatal(err)
			}
			for i := range 2000 {
				if err := learn("a", fmt.Sprintf("n%d.wild.test", i)); err != nil {
					t.Fatalf("%d of the flood: %v", i, err)
				}
			}
			for i := range 400 {
				if err := learn("b", fmt.Sprintf("h%d.example.com", i)); err != nil {
					t.Fatalf("exact host %d of another workload: %v", i, err)
				}
				if err := learn("b", fmt.Sprintf("b%d.wild.test", i)); err != nil {
					t.Fatalf("new name %d of another workload: %v", i, err)
				}
			}
			names := r.NamesOf(id, netip.MustParseAddr(addr))
			count := map[byte]int{}
			for _, n := range names {
				count[n[0]]++
			}
			if count['h'] != 400 || count['b'] != 400 || !slices.Contains(names, "shared.wild.test") {
				t.Errorf("left of another workload: %v of 400 hosts and 400 names; shared: %v", count, slices.Contains(names, "shared.wild.test"))
			}
			if !slices.Contains(names, "n1999.wild.test") || slices.Contains(names, "n0.wild.test") {
				t.Error("not the oldest names of the flood went")
			}
			if count['n']+count['b'] > 1024 {
				t.Errorf("%v names under the wildcard on one address", count)
			}
			if proofs := len(r.kernel.Opens(addr)); proofs != len(names) {
				t.Errorf("the kernel has %d proofs of %d names", proofs, len(names))
			}
			if r.Evicted() == 0 {
				t.Error("nothing was counted as evicted")
			}
			checkAccounts(t, r.Names)
		})
	}
}

// TestOneAddressPinned: with a connection to the address nothing is evicted.
// The flood is refused then, and the others go on.
func TestOneAddressPinned(t *testing.T) {
	for _, addr := range bothFamilies {
		t.Run(addr, func(t *testing.T) {
			used := map[netip.Addr]bool{netip.MustParseAddr(addr): true}
			r := newNamesRig(t, Options{InUse: func() (map[netip.Addr]bool, error) { return used, nil }})
			r.pol.Store(learnedtest.Compile(t, learnedtest.ExactServices(1024)...))
			learn := func(workload, name string) error { return r.Learn(id, workload, name, answers(time.Hour, addr)) }
			good := 0
			var err error
			for i := range 900 {
				if e := learn("a", fmt.Sprintf("n%d.wild.test", i)); e == nil {
					good++
				} else {
					err = e
				}
			}
			if good != 768 || !errors.Is(err, ErrFull) {
				t.Errorf("%d names of the flood were learned (%v), want 768, then ErrFull", good, err)
			}
			for i := range 32 {
				if err := learn("b", fmt.Sprintf("b%d.wild.test", i)); err != nil {
					t.Errorf("new name %d of another workload: %v", i, err)
				}
			}
			for i := range 1024 {
				if err := learn("b", fmt.Sprintf("h%d.example.com", i)); err != nil {
					t.Fatalf("exact host %d: %v", i, err)
				}
			}
			if err := learn("a", "h0.example.com"); err != nil {
				t.Errorf("an exact host of the workload that floods: %v", err)
			}
			checkAccounts(t, r.Names)
		})
	}
}

// somePolicies gives ids the same policy.
type somePolicies struct{ *learnedtest.Policies }

func (p somePolicies) Policy(id policy.PolicyID) *policy.Policy {
	if id > policy.DefaultPolicy+2 {
		return nil
	}
	return p.Policies.Policy(policy.DefaultPolicy)
}

// TestPolicyFlooded: who owns a wildcard's zone can make up names and
// addresses without end. They take the room of no exact host, of no other
// workload and of no other policy, whether or not connections pin them.
func TestPolicyFlooded(t *testing.T) {
	at := func(i int) []string {
		return []string{fmt.Sprintf("203.0.%d.%d", i/256, i%256), fmt.Sprintf("2001:4860::%x", i+1)}
	}
	for name, o := range map[string]Options{
		"names":     {MaxNames: 256},
		"addresses": {MaxAddrs: 256},
		"openings":  {MaxOpenings: 256},
		"proofs":    {MaxServerNames: 256},
		"node":      {MaxNodeServerNames: 256, MaxServerNames: 1 << 12},
	} {
		for _, pinned := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/pinned=%v", name, pinned), func(t *testing.T) {
				o.InUse = func() (map[netip.Addr]bool, error) {
					if pinned {
						return nil, errors.New("all of them")
					}
					return map[netip.Addr]bool{}, nil
				}
				r := newNamesRig(t, o)
				r.pol.Store(learnedtest.Compile(t, learnedtest.ExactServices(100)...))
				r.Names = New(r.kernel, somePolicies{r.pol}, r.Names.o)
				var err error
				for i := range 1000 {
					r.clock.Advance(time.Millisecond)
					if e := r.Learn(id, "a", fmt.Sprintf("n%d.wild.test", i), answers(time.Hour, at(i)...)); e != nil {
						err = e
					}
				}
				if pinned != errors.Is(err, ErrFull) {
					t.Errorf("the flood: %v", err)
				}
				for i := range 100 {
					if err := r.Learn(id, "b", fmt.Sprintf("h%d.example.com", i), answers(time.Minute, at(2000+i)...)); err != nil {
						t.Fatalf("exact host %d: %v", i, err)
					}
				}
				for _, other := range []policy.PolicyID{id, id + 1} {
					if err := r.Learn(other, "b", "new.wild.test", answers(time.Minute, at(3000)...)); err != nil {
						t.Errorf("another workload, policy %d: %v", other, err)
					}
				}
				checkAccounts(t, r.Names)
				pinned = false
				r.clock.Advance(2 * time.Hour)
				if err := r.Expire(); err != nil || r.Size().Names != 0 || len(r.kernel.Addresses()) != 0 {
					t.Errorf("after their time: %+v, %v", r.Size(), err)
				}
				checkAccounts(t, r.Names)
			})
		}
	}
}

// TestAddressesOfOneName: a name whose answers change without end keeps its
// newest addresses.
func TestAddressesOfOneName(t *testing.T) {
	r := newNamesRig(t, Options{MaxAddrsPerName: 16})
	for i := range 200 {
		r.clock.Advance(time.Second)
		mustLearn(t, r.Names, "www.example.com", answers(time.Hour, fmt.Sprintf("203.0.113.%d", i), fmt.Sprintf("2001:4860::%x", i)))
	}
	// An answer is open as a whole or refused: it does not evict itself.
	r.clock.Advance(time.Second)
	var large []Record
	for i := range 17 {
		large = append(large, answers(time.Hour, fmt.Sprintf("203.0.114.%d", i))...)
	}
	if err := r.Learn(id, "w", "other.example.com", large); !errors.Is(err, ErrFull) {
		t.Errorf("an answer of more addresses than a name may have: %v", err)
	}
	got := r.AddrsOf(id, "www.example.com")
	if len(got) > 16 || !slices.Contains(got, netip.MustParseAddr("203.0.113.199")) || !slices.Contains(got, netip.MustParseAddr("2001:4860::c7")) {
		t.Errorf("addresses: %v", got)
	}
	checkAccounts(t, r.Names)
}

// TestSharesOverRestart: what a workload holds is charged to it after a
// restart as well.
func TestSharesOverRestart(t *testing.T) {
	r := newNamesRig(t, Options{})
	for i := range 700 {
		if err := r.Learn(id, "a", fmt.Sprintf("n%d.wild.test", i), answers(time.Hour, "203.0.113.1")); err != nil {
			t.Fatal(err)
		}
	}
	later := newNamesRig(t, Options{})
	if n, err := later.Restore(r.Dump(), nobody); n != 700 || err != nil {
		t.Fatalf("Restore = %d, %v", n, err)
	}
	if got := later.table(id).held; !maps.Equal(got, map[string]int{"a": 700}) {
		t.Errorf("held after the restart: %v", got)
	}
	checkAccounts(t, later.Names)
}

// TestAccountsHold: whatever happens, the counts are what is there.
func TestAccountsHold(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	steps := make([]byte, 20_000)
	for i := range steps {
		steps[i] = byte(rnd.Uint32())
	}
	accounts(t, steps, 50)
}

// FuzzAccounts is TestAccountsHold for steps that a fuzzer chooses.
func FuzzAccounts(f *testing.F) {
	f.Add([]byte("a few steps, each of four bytes, and then some more of them"))
	f.Fuzz(func(t *testing.T, steps []byte) { accounts(t, steps[:min(len(steps), 2000)], 1) })
}

// accounts does what steps say, four bytes each, and counts every so many.
func accounts(t *testing.T, steps []byte, every int) {
	r := newNamesRig(t, Options{MaxNames: 40, MaxAddrs: 30, MaxNamesPerAddr: 12, MaxServerNames: 60, MaxAddrsPerName: 6, MaxNodeServerNames: 50})
	wide := append(learnedtest.ExactServices(0), learnedtest.Service("n1.wild.test"), learnedtest.Service("n2.wild.test"))
	snapshots := []*policy.Snapshot{learnedtest.Compile(t, learnedtest.ExactServices(5)...), learnedtest.Compile(t, wide...)}
	r.pol.Store(snapshots[0])
	broken := errors.New("broken")
	for i := 0; len(steps) >= 4; i, steps = i+1, steps[4:] {
		who, what, where, then := steps[0], steps[1], steps[2], steps[3]
		r.clock.Advance(time.Duration(who) * 8 * time.Millisecond)
		name := fmt.Sprintf("n%d.wild.test", what%60)
		if what >= 192 {
			name = fmt.Sprintf("h%d.example.com", what%6)
		}
		_ = r.Learn(id, string(rune('a'+who%4)), name, answers(time.Minute, fmt.Sprintf("203.0.113.%d", where%50)))
		switch then {
		case 0, 1, 2, 3, 4, 5:
			r.pol.Store(snapshots[then%2])
			c := policy.Diff(nil, snapshots[then%2])
			if then%3 == 0 {
				_ = r.Tighten(c)
			} else {
				_ = r.Loosen(c)
			}
		case 6, 7, 8:
			_ = r.Expire()
		case 9, 10, 11:
			r.kernel.SetFail(broken)
		case 12, 13, 14, 15, 16:
			r.kernel.SetFail(nil)
		}
		if i%every == 0 {
			checkAccounts(t, r.Names)
		}
	}
	r.kernel.SetFail(nil)
	r.clock.Advance(2 * time.Hour)
	if err := r.Expire(); err != nil || r.Size().Names != 0 || len(r.kernel.Addresses()) != 0 {
		t.Errorf("after all: %+v, %v", r.Size(), err)
	}
	checkAccounts(t, r.Names)
}

// checkAccounts counts anew what tables say of themselves.
func checkAccounts(t *testing.T, n *Names) {
	t.Helper()
	var wild use
	for id, tab := range n.all() {
		held, wildNames, wildAddrs := map[string]int{}, 0, 0
		var used, exact use
		for _, a := range tab.addrs {
			wild := 0
			for _, p := range a.pairs {
				if !p.wild {
					continue
				}
				wild++
				for _, w := range p.by {
					held[w]++
				}
			}
			if wild != a.wild {
				t.Errorf("policy %d: an address has %d pairs under wildcards and says %d", id, wild, a.wild)
			}
			if wild == len(a.pairs) {
				wildAddrs++
			}
			used, exact = used.plus(useOf(a.open)), exact.plus(useOf(a.exact))
		}
		for name, addrs := range tab.names {
			for addr := range addrs {
				if tab.addrs[addr].pairs[name].wild {
					wildNames++
					break
				}
			}
		}
		if wildNames != tab.wildNames || wildAddrs != tab.wildAddrs || !maps.Equal(held, tab.held) || used != tab.used || exact != tab.exact {
			t.Errorf("policy %d has %d names, %d addresses, %v, %+v, %+v; and says %d, %d, %v, %+v, %+v", id,
				wildNames, wildAddrs, held, used, exact, tab.wildNames, tab.wildAddrs, tab.held, tab.used, tab.exact)
		}
		wild = wild.plus(used.beyond(exact))
	}
	if got := (use{int(n.node.openings.Load()), int(n.node.serverNames.Load())}); got != wild {
		t.Errorf("the node has %+v under wildcards and says %+v", wild, got)
	}
}
