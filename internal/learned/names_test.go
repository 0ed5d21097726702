// SPDX-License-Identifier: Apache-2.0

package learned

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(learnedtest.Main(m)) }

const id = policy.DefaultPolicy

// nobody has a policy of its own.
func nobody(string) (policy.PolicyID, bool) { return 0, false }

type namesRig struct {
	*Names
	kernel *learnedtest.Kernel
	pol    *learnedtest.Policies
	clock  *learnedtest.Clock
}

func newNamesRig(t testing.TB, o Options) namesRig {
	r := namesRig{kernel: new(learnedtest.Kernel), pol: new(learnedtest.Policies), clock: learnedtest.NewClock()}
	r.pol.Store(learnedtest.Compile(t, learnedtest.Services()...))
	o.Now = r.clock.Now
	r.Names = New(r.kernel, r.pol, o)
	return r
}

func answers(ttl time.Duration, addrs ...string) []Record {
	var out []Record
	for _, a := range addrs {
		out = append(out, Record{Addr: netip.MustParseAddr(a), TTL: ttl})
	}
	return out
}

func mustLearn(t testing.TB, n *Names, name string, a []Record) {
	t.Helper()
	if err := n.Learn(id, "w", name, a); err != nil {
		t.Fatal(err)
	}
}

func TestLearnOpensAndRemembers(t *testing.T) {
	r := newNamesRig(t, Options{})
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, "203.0.113.1", "2001:4860::1"))
	mustLearn(t, r.Names, "other.example.com", answers(time.Minute, "203.0.113.1"))
	if got, want := r.NamesOf(id, netip.MustParseAddr("203.0.113.1")), []string{"other.example.com", "www.example.com"}; !slices.Equal(got, want) {
		t.Errorf("NamesOf = %v, want %v", got, want)
	}
	if got := r.NamesOf(id, netip.MustParseAddr("::ffff:203.0.113.1")); len(got) != 2 {
		t.Errorf("NamesOf of the mapped address = %v", got)
	}
	if got := fmt.Sprint(r.AddrsOf(id, "www.example.com")); got != "[203.0.113.1 2001:4860::1]" {
		t.Errorf("AddrsOf = %v", got)
	}
	for _, a := range []string{"203.0.113.1", "2001:4860::1"} {
		o := r.kernel.Opens(a)
		// One opening for each name that is allowed at the address.
		if len(o) != len(r.NamesOf(id, netip.MustParseAddr(a))) {
			t.Errorf("openings of %s = %v", a, o)
		}
		for _, one := range o {
			if one.Port != 443 || one.Transport != policy.TCP || one.Verdict != policy.Inspect || one.Name == "" {
				t.Errorf("openings of %s = %v", a, o)
			}
		}
	}
	if got := r.NamesOf(2, netip.MustParseAddr("203.0.113.1")); got != nil {
		t.Errorf("another policy sees %v", got)
	}
	before := r.kernel.Written()
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, "203.0.113.1"))
	if r.kernel.Written() != before {
		t.Error("an answer that changes nothing wrote the kernel")
	}
	if got, want := r.Size(), (Size{Policies: 1, Names: 2, Addresses: 2, Openings: 3, ServerNames: 3}); got != want {
		t.Errorf("Size = %+v, want %+v", got, want)
	}
}

func TestLearnRefuses(t *testing.T) {
	own := netip.MustParseAddr("198.51.100.7")
	tests := []struct {
		name, addr string
		id         policy.PolicyID
		want       error
	}{
		{"evil.test", "203.0.113.1", id, ErrName},
		{"www.example.com", "203.0.113.1", 7, ErrName},
		{"www.example.com", "127.0.0.1", id, ErrAddress},
		{"www.example.com", "::1", id, ErrAddress},
		{"www.example.com", "169.254.169.254", id, ErrAddress},
		{"www.example.com", "fd00:ec2::254", id, ErrAddress},
		{"www.example.com", "::ffff:203.0.113.1", id, ErrAddress},
		{"www.example.com", "64:ff9b::a9fe:a9fe", id, ErrAddress},
		{"www.example.com", own.String(), id, ErrAddress},
		{"www.example.com", "10.0.0.1", id, nil},
		{"www.example.com", "fd12::1", id, nil},
		{"a.wild.test", "10.0.0.1", id, ErrAddress},
		{"a.wild.test", "fd12::1", id, ErrAddress},
		{"a.lax.test", "10.0.0.1", id, nil},
	}
	for _, tt := range tests {
		r := newNamesRig(t, Options{Guard: ipguard.New([]netip.Addr{own})})
		err := r.Learn(tt.id, "w", tt.name, answers(time.Minute, tt.addr))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s %s: %v, want %v", tt.name, tt.addr, err, tt.want)
		}
		if open := r.kernel.Opens(tt.addr) != nil; open != (tt.want == nil) {
			t.Errorf("%s %s: open = %v", tt.name, tt.addr, open)
		}
	}
}

func TestExpire(t *testing.T) {
	o := Options{Floor: 5 * time.Second, Cap: time.Minute, Grace: 10 * time.Second}
	tests := []struct{ ttl, lives time.Duration }{
		{0, 15 * time.Second}, // the floor and the grace
		{20 * time.Second, 30 * time.Second},
		{time.Hour, 70 * time.Second}, // the cap
	}
	for _, tt := range tests {
		r := newNamesRig(t, o)
		mustLearn(t, r.Names, "www.example.com", answers(tt.ttl, "203.0.113.1"))
		r.clock.Advance(tt.lives - time.Nanosecond)
		if err := r.Expire(); err != nil || len(r.kernel.Opens("203.0.113.1")) != 1 || len(r.AddrsOf(id, "www.example.com")) != 1 {
			t.Errorf("ttl %s: gone before %s (%v)", tt.ttl, tt.lives, err)
		}
		r.clock.Advance(time.Nanosecond)
		if got := r.AddrsOf(id, "www.example.com"); len(got) != 0 {
			t.Errorf("ttl %s: after %s still %v", tt.ttl, tt.lives, got)
		}
		if err := r.Expire(); err != nil || r.kernel.Opens("203.0.113.1") != nil || r.Size().Addresses != 0 || r.Size().Names != 0 {
			t.Errorf("ttl %s: there after %s (%v) %+v", tt.ttl, tt.lives, err, r.Size())
		}
	}
}

func TestExpireKeepsWhatAnotherNameOpens(t *testing.T) {
	r := newNamesRig(t, Options{})
	mustLearn(t, r.Names, "www.example.com", answers(10*time.Second, "203.0.113.1"))
	mustLearn(t, r.Names, "other.example.com", answers(10*time.Minute, "203.0.113.1"))
	r.clock.Advance(2 * time.Minute)
	if err := r.Expire(); err != nil {
		t.Fatal(err)
	}
	if got := r.NamesOf(id, netip.MustParseAddr("203.0.113.1")); !slices.Equal(got, []string{"other.example.com"}) {
		t.Errorf("names = %v", got)
	}
	if len(r.kernel.Opens("203.0.113.1")) != 1 {
		t.Error("the address was closed under a live name")
	}
}

func TestKernelErrorIsRepaired(t *testing.T) {
	r := newNamesRig(t, Options{})
	broken := errors.New("map is full")
	r.kernel.SetFail(broken)
	if err := r.Learn(id, "w", "www.example.com", answers(time.Minute, "203.0.113.1")); !errors.Is(err, broken) {
		t.Fatalf("Learn = %v", err)
	}
	if got := r.NamesOf(id, netip.MustParseAddr("203.0.113.1")); len(got) != 0 {
		t.Errorf("learned %v although the kernel was not written", got)
	}
	r.kernel.SetFail(nil)
	before := r.kernel.Written()
	if err := r.Expire(); err != nil || r.kernel.Written() != before+1 || r.Size().Addresses != 0 {
		t.Errorf("Expire did not repair: %v, %d writes, %+v", err, r.kernel.Written()-before, r.Size())
	}
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, "203.0.113.1"))
	if len(r.kernel.Opens("203.0.113.1")) != 1 {
		t.Error("not open after the kernel works again")
	}
}

func TestBounds(t *testing.T) {
	addr := func(i int) string { return fmt.Sprintf("203.0.113.%d", i) }
	tests := []struct {
		name string
		o    Options
		fill func(r namesRig, i int) error
		max  int
	}{
		{"addresses", Options{MaxAddrs: 3}, func(r namesRig, i int) error {
			return r.Learn(id, "w", "www.example.com", answers(time.Minute, addr(i)))
		}, 3},
		{"addresses of a name", Options{MaxAddrsPerName: 2}, func(r namesRig, i int) error {
			return r.Learn(id, "w", "www.example.com", answers(time.Minute, addr(i)))
		}, 2},
		{"names", Options{MaxNames: 5}, func(r namesRig, i int) error {
			return r.Learn(id, "w", fmt.Sprintf("n%d.wild.test", i), answers(time.Minute, addr(i)))
		}, 4},
		{"names of an address", Options{MaxNamesPerAddr: 4}, func(r namesRig, i int) error {
			return r.Learn(id, "w", fmt.Sprintf("n%d.wild.test", i), answers(time.Minute, addr(1)))
		}, 3},
		{"openings", Options{MaxOpenings: 3}, func(r namesRig, i int) error {
			return r.Learn(id, "w", "www.example.com", answers(time.Minute, addr(i)))
		}, 3},
		{"proofs", Options{MaxServerNames: 4}, func(r namesRig, i int) error {
			return r.Learn(id, "w", fmt.Sprintf("n%d.wild.test", i), answers(time.Minute, addr(1)))
		}, 3},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			used := true // so that nothing can be evicted
			tt.o.InUse = func() (map[netip.Addr]bool, error) {
				if used {
					return nil, errors.New("all of them")
				}
				return map[netip.Addr]bool{}, nil
			}
			r := newNamesRig(t, tt.o)
			for i := range tt.max {
				if err := tt.fill(r, i); err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			open := r.kernel.Addresses()
			if err := tt.fill(r, tt.max); !errors.Is(err, ErrFull) {
				t.Fatalf("one more: %v", err)
			}
			if got := r.kernel.Addresses(); !slices.Equal(got, open) {
				t.Errorf("live addresses changed: %v, were %v", got, open)
			}
			if err := tt.fill(r, 0); err != nil {
				t.Errorf("what is there cannot be renewed: %v", err)
			}
			used = false
			r.clock.Advance(10 * time.Minute)
			if err := tt.fill(r, tt.max); err != nil {
				t.Errorf("after the others' time: %v", err)
			}
		})
	}
}

func TestReapply(t *testing.T) {
	both := func() []*policy.Service {
		return []*policy.Service{learnedtest.Service("www.example.com"), learnedtest.Service("b.test")}
	}
	wide := both()
	wide[0].Ports = append(wide[0].Ports, policy.Port{Number: 80, Name: "http", Protocol: policy.ProtocolHTTP})
	r := newNamesRig(t, Options{})
	r.pol.Store(learnedtest.Compile(t, both()...))
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, "203.0.113.1"))
	mustLearn(t, r.Names, "b.test", answers(time.Minute, "203.0.113.2", "203.0.113.1"))

	// b.test goes, www.example.com gains a port.
	next := learnedtest.Compile(t, wide[0])
	if err := r.Tighten(policy.Diff(r.pol.Load(), next)); err != nil {
		t.Fatal(err)
	}
	if r.kernel.Opens("203.0.113.2") != nil || len(r.kernel.Opens("203.0.113.1")) != 1 {
		t.Errorf("tightened: %v %v", r.kernel.Opens("203.0.113.1"), r.kernel.Opens("203.0.113.2"))
	}
	// An answer arrives between the phases, under the old policy.
	mustLearn(t, r.Names, "b.test", answers(time.Minute, "203.0.113.3"))
	was := r.pol.Load()
	r.pol.Store(next)
	if err := r.Loosen(policy.Diff(was, next)); err != nil {
		t.Fatal(err)
	}
	if o := r.kernel.Opens("203.0.113.1"); len(o) != 2 || o[0].Port != 80 || o[1].Port != 443 {
		t.Errorf("loosened: %v", o)
	}
	if r.kernel.Opens("203.0.113.3") != nil || len(r.AddrsOf(id, "b.test")) != 0 {
		t.Error("an address of the old policy is still open")
	}
	before := r.kernel.Written()
	if err := r.Loosen(policy.Diff(nil, r.pol.Load())); err != nil || r.kernel.Written() != before {
		t.Errorf("an unchanged policy wrote the kernel %d times (%v)", r.kernel.Written()-before, err)
	}
	r.pol.Store(learnedtest.Compile(t, learnedtest.Service("else.test")))
	if err := r.Loosen(policy.Diff(nil, r.pol.Load())); err != nil || len(r.kernel.Addresses()) != 0 {
		t.Errorf("nothing is allowed, open is %v (%v)", r.kernel.Addresses(), err)
	}
}

func TestReapplyChecksAddressesAnew(t *testing.T) {
	lax := learnedtest.Service("*.lax.test")
	lax.AllowPrivate = true
	r := newNamesRig(t, Options{})
	r.pol.Store(learnedtest.Compile(t, lax))
	mustLearn(t, r.Names, "a.lax.test", answers(time.Minute, "10.0.0.1", "203.0.113.1"))
	r.pol.Store(learnedtest.Compile(t, learnedtest.Service("*.lax.test")))
	if err := r.Loosen(policy.Diff(nil, r.pol.Load())); err != nil {
		t.Fatal(err)
	}
	if got := r.kernel.Addresses(); !slices.Equal(got, []string{"203.0.113.1"}) {
		t.Errorf("open: %v", got)
	}
}

func TestDumpRestore(t *testing.T) {
	r := newNamesRig(t, Options{})
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, "203.0.113.1", "2001:4860::1"))
	mustLearn(t, r.Names, "other.example.com", answers(5*time.Second, "203.0.113.2"))
	data, err := json.Marshal(r.Dump())
	if err != nil {
		t.Fatal(err)
	}
	var saved []Saved
	if err := json.Unmarshal(data, &saved); err != nil {
		t.Fatal(err)
	}
	same := newNamesRig(t, Options{})
	if n, err := same.Restore(saved, nobody); n != 3 || err != nil {
		t.Fatalf("Restore = %d, %v", n, err)
	}
	if got, want := same.Dump(), r.Dump(); !reflect.DeepEqual(dumpText(got), dumpText(want)) {
		t.Errorf("restored %v, want %v", got, want)
	}
	if !slices.Equal(same.kernel.Addresses(), r.kernel.Addresses()) {
		t.Errorf("open %v, want %v", same.kernel.Addresses(), r.kernel.Addresses())
	}

	later := newNamesRig(t, Options{})
	later.clock.Advance(70 * time.Second)
	later.pol.Store(learnedtest.Compile(t, learnedtest.Service("www.example.com")))
	saved = append(saved,
		Saved{Policy: id, Name: "www.example.com", Addr: netip.MustParseAddr("127.0.0.1"), Until: later.clock.Now().Add(time.Hour)},
		Saved{Policy: 9, Name: "www.example.com", Addr: netip.MustParseAddr("203.0.113.9"), Until: later.clock.Now().Add(time.Hour)},
		Saved{Policy: id, Name: "www.example.com", Addr: netip.MustParseAddr("203.0.113.8"), Until: later.clock.Now().Add(1000 * time.Hour)})
	if n, err := later.Restore(saved, nobody); n != 3 || err != nil {
		t.Fatalf("Restore = %d, %v", n, err)
	}
	if got := later.kernel.Addresses(); !slices.Equal(got, []string{"2001:4860::1", "203.0.113.1", "203.0.113.8"}) {
		t.Errorf("open: %v", got)
	}
	later.clock.Advance(2 * time.Hour) // the cap bounds what a file says
	if err := later.Expire(); err != nil || len(later.kernel.Addresses()) != 0 {
		t.Errorf("still open: %v (%v)", later.kernel.Addresses(), err)
	}
}

// TestRestoreInUse: what an open connection goes to is learned again however old
// it is; without the connection it is not.
func TestRestoreInUse(t *testing.T) {
	v4, v6 := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:4860::1")
	used := map[netip.Addr]bool{v4: true, v6: true}
	inUse := func() (map[netip.Addr]bool, error) { return used, nil }
	r := newNamesRig(t, Options{InUse: inUse})
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, v4.String(), v6.String(), "203.0.113.2"))
	saved := r.Dump()
	later := newNamesRig(t, Options{InUse: inUse})
	later.clock.Advance(24 * time.Hour)
	if n, err := later.Restore(saved, nobody); n != 2 || err != nil {
		t.Fatalf("Restore = %d, %v", n, err)
	}
	if got := later.kernel.Addresses(); !slices.Equal(got, []string{v6.String(), v4.String()}) {
		t.Errorf("open: %v", got)
	}
	clear(used)
	if err := later.Expire(); err != nil || len(later.kernel.Addresses()) != 0 {
		t.Errorf("still open: %v (%v)", later.kernel.Addresses(), err)
	}
}

func dumpText(l []Saved) []string {
	var out []string
	for _, e := range l {
		out = append(out, fmt.Sprint(e.Policy, e.Name, e.Addr, e.Until.UnixNano()))
	}
	return out
}

func TestMergeAndTighten(t *testing.T) {
	p := netip.MustParsePrefix("203.0.113.1/32")
	o := func(port uint16, t policy.Transport, v policy.Verdict) policy.Opening {
		return policy.Opening{Prefix: p, Port: port, Transport: t, Verdict: v}
	}
	got := merge([]policy.Opening{o(443, policy.TCP, policy.Direct), o(53, policy.UDP, policy.Direct)},
		[]policy.Opening{o(443, policy.TCP, policy.Inspect), o(80, policy.TCP, policy.Proxy), o(53, policy.UDP, policy.Direct)})
	want := []policy.Opening{o(80, policy.TCP, policy.Proxy), o(443, policy.TCP, policy.Proxy), o(53, policy.UDP, policy.Direct)}
	if !slices.Equal(got, want) {
		t.Errorf("merge = %v, want %v", got, want)
	}
	have := []policy.Opening{o(80, policy.TCP, policy.Direct), o(443, policy.TCP, policy.Proxy), o(1, policy.TCP, policy.Proxy)}
	next := merge([]policy.Opening{o(80, policy.TCP, policy.Inspect), o(443, policy.TCP, policy.Direct), o(2, policy.TCP, policy.Proxy), o(3, policy.TCP, policy.Direct)}, nil)
	want = []policy.Opening{o(80, policy.TCP, policy.Inspect), o(443, policy.TCP, policy.Proxy)}
	if got := tighten(have, next, false); !slices.Equal(got, want) {
		t.Errorf("tighten = %v, want %v", got, want)
	}
	want = slices.Insert(want, 0, o(2, policy.TCP, policy.Proxy)) // what is not there was open
	if got := tighten(have, next, true); !slices.Equal(got, want) {
		t.Errorf("tighten where all is open = %v, want %v", got, want)
	}
}

func TestNamesConcurrently(t *testing.T) {
	r := newNamesRig(t, Options{Interval: time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.Run(ctx) })
	var work sync.WaitGroup
	for g := range 4 {
		work.Go(func() {
			for i := range 200 {
				name := fmt.Sprintf("n%d.wild.test", (g+i)%7)
				addr := fmt.Sprintf("203.0.113.%d", i%11)
				if err := r.Learn(id, "w", name, answers(time.Second, addr)); err != nil {
					t.Error(err)
				}
				r.NamesOf(id, netip.MustParseAddr(addr))
				r.AddrsOf(id, name)
				r.clock.Advance(time.Second)
				if i%50 == 0 {
					if err := r.Loosen(policy.Diff(nil, r.pol.Load())); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	work.Wait()
	cancel()
	wg.Wait()
	r.clock.Advance(time.Hour)
	if err := r.Expire(); err != nil || len(r.kernel.Addresses()) != 0 || r.Size().Names != 0 {
		t.Errorf("left open: %v, %+v (%v)", r.kernel.Addresses(), r.Size(), err)
	}
}

// TestChanges: the number grows when there is something new to dump, and only
// then.
func TestChanges(t *testing.T) {
	r := newNamesRig(t, Options{})
	before := r.Changes()
	mustLearn(t, r.Names, "www.example.com", answers(time.Minute, "203.0.113.1"))
	learned := r.Changes()
	if learned <= before {
		t.Errorf("an address was learned: %d after %d", learned, before)
	}
	if err := r.Expire(); err != nil || r.Changes() != learned {
		t.Errorf("nothing expired: %d after %d, %v", r.Changes(), learned, err)
	}
	mustLearn(t, r.Names, "www.example.com", answers(time.Hour, "203.0.113.1"))
	again := r.Changes()
	if again <= learned {
		t.Errorf("it was learned for longer: %d after %d", again, learned)
	}
	if err := r.Loosen(policy.Diff(nil, learnedtest.Compile(t))); err != nil || len(r.Dump()) != 0 || r.Changes() <= again {
		t.Errorf("it was forgotten: %d after %d, %v, %v", r.Changes(), again, r.Dump(), err)
	}
}

// TestRecheck: an address that becomes the node's own is closed, and can be
// learned again when it no longer is.
func TestRecheck(t *testing.T) {
	own := new(ipguard.Addresses)
	pinned := func() (map[netip.Addr]bool, error) { return nil, errors.New("all in use") }
	r := newNamesRig(t, Options{Guard: ipguard.NewLive(own), InUse: pinned})
	for _, addr := range bothFamilies {
		a := netip.MustParseAddr(addr)
		mustLearn(t, r.Names, "www.example.com", answers(time.Minute, addr, "203.0.113.50"))
		mustLearn(t, r.Names, "a.wild.test", answers(time.Minute, addr))
		own.Set([]netip.Prefix{netip.PrefixFrom(a, a.BitLen())})
		if gone, err := r.Recheck(); gone != 2 || err != nil {
			t.Errorf("%s: Recheck = %d, %v", addr, gone, err)
		}
		if r.kernel.Opens(addr) != nil || r.kernel.Opens("203.0.113.50") == nil || len(r.NamesOf(id, a)) != 0 {
			t.Errorf("%s: open %v, names %v", addr, r.kernel.Addresses(), r.NamesOf(id, a))
		}
		if err := r.Learn(id, "w", "www.example.com", answers(time.Minute, addr)); !errors.Is(err, ErrAddress) {
			t.Errorf("%s: %v", addr, err)
		}
		own.Set(nil)
		if gone, err := r.Recheck(); gone != 0 || err != nil {
			t.Errorf("%s: Recheck = %d, %v", addr, gone, err)
		}
		mustLearn(t, r.Names, "www.example.com", answers(time.Minute, addr))
		if r.kernel.Opens(addr) == nil {
			t.Errorf("%s is not open again", addr)
		}
	}
	checkAccounts(t, r.Names)
}

// TestRestoreNumbers: policies have other numbers in another process. What is learned is
// learned for those that the workloads that asked have there, for each of them, and
// not for who has the number today.
func TestRestoreNumbers(t *testing.T) {
	r := newNamesRig(t, Options{})
	addr := netip.MustParseAddr("203.0.113.1")
	until := r.clock.Now().Add(time.Minute)
	today := map[string]policy.PolicyID{"shop/web": id}
	policyOf := func(w string) (policy.PolicyID, bool) { p, ok := today[w]; return p, ok }
	for _, tt := range []struct {
		saved Saved
		want  int
	}{
		{Saved{Policy: 57, Workloads: []string{"shop/web"}}, 1},              // it had another number
		{Saved{Policy: 57, Workloads: []string{"shop/gone"}}, 0},             // nobody has it
		{Saved{Policy: 57, Workloads: []string{"shop/gone", "shop/web"}}, 1}, // one of them is there
		{Saved{Policy: id, Workloads: []string{"node"}}, 1},                  // of no policy of its own
		{Saved{Policy: id}, 1}, // an older version's
		{Saved{Policy: 57}, 0}, // the same
	} {
		s := tt.saved
		s.Name, s.Addr, s.Until = "www.example.com", addr, until
		fresh := newNamesRig(t, Options{})
		n, err := fresh.Restore([]Saved{s}, policyOf)
		if n != tt.want || err != nil || len(fresh.kernel.Addresses()) != tt.want {
			t.Errorf("%+v: %d, %v, open %v", s, n, err, fresh.kernel.Addresses())
		}
	}
}
