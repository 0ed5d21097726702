// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/internal/memcg"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/grow"
	"github.com/egressd/egressd/policy"
)

// growing are the tables that grow.
var growing = [...]string{"egd_addrs", "egd_known", "egd_endpoints", "egd_names"}

// table is a pinned table that grows, as it is now.
func (r *rig) table(name string) *ebpf.Map {
	r.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, name), nil)
	must(r.t, err)
	defer m.Close()
	return tableIn(r.t, m)
}

// rooms are how many entries there is room for in each.
func (r *rig) rooms() map[string]uint32 {
	out := map[string]uint32{}
	for _, name := range growing {
		out[name] = r.table(name).MaxEntries()
	}
	return out
}

// many are addresses of 10.0.0.0/8 and of fd00::/8, in turn.
func many(n int) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		if i%2 == 0 {
			out[i] = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			continue
		}
		a := netip.MustParseAddr("fd00::").As16()
		binary.BigEndian.PutUint32(a[12:], uint32(i))
		out[i] = netip.AddrFrom16(a)
	}
	return out
}

// opensOf is what such an address opens: a name in the kernel, or a set of
// endpoints of its own.
func opensOf(i int, a netip.Addr) policy.Opening {
	o := policy.Opening{Prefix: netip.PrefixFrom(a, a.BitLen()), Port: 443, Transport: policy.TCP, Verdict: policy.Inspect,
		Name: fmt.Sprintf("h%d.example", i)}
	if i%4 > 1 {
		o.Verdict, o.Name = policy.Direct, ""
		o.To = endpoints(netip.AddrPortFrom(a.Next(), 8443).String())
	}
	return o
}

// TestGrowth: the tables grow several times under open connections of every kind
// and others that begin all the time; nothing breaks, and nothing opens.
func TestGrowth(t *testing.T) {
	u := newUpgradeRig(t)
	u.start(0)
	all := []*live{u.connect(0), u.connect(1)}
	knockers := []*talker{u.knocker(0), u.knocker(1)}
	began := u.rooms()
	const n = 16000
	for i, a := range many(n) {
		if err := u.dp.SetAddress(testPolicy, a, []policy.Opening{opensOf(i, a)}); err != nil {
			t.Fatalf("address %d: %v", i, err)
		}
		if i%4000 == 2000 {
			for _, l := range all {
				l.goOn(u, fmt.Sprintf("with %d addresses", i))
			}
		}
	}
	grown := u.rooms()
	for _, name := range growing {
		if grown[name] < 4*began[name] {
			t.Errorf("%s had room for %d entries and now for %d", name, began[name], grown[name])
		}
	}
	fills := u.dp.Fills()
	for name, want := range map[string]int{"egd_addrs": n, "egd_known": n, "egd_names": n / 2, "egd_endpoints": n} {
		in := 0
		m := u.table(name)
		key := make([]byte, m.KeySize())
		for err := m.NextKey(nil, key); err == nil; err = m.NextKey(key, key) {
			in++
		}
		if f := fills[name]; f.Entries != in || in < want || f.Max < in {
			t.Errorf("%s has %d entries, at least %d were written; it says %+v", name, in, want, f)
		}
	}
	for _, l := range all {
		l.judge(u, "after the growth")
	}
	// All that is open is decided again, and what was learned is found.
	must(t, u.dp.RaiseEpoch())
	for _, l := range all {
		l.goOn(u, "with a new epoch")
	}
	u.noLeaks(knockers...)
	u.die()

	// Another start that goes by the same tables finds them at their size.
	u.begin(0)
	must(t, u.dp.Attach(u.cg.Path()))
	if again := u.rooms(); fmt.Sprint(again) != fmt.Sprint(grown) {
		t.Errorf("the tables had room for %v, after a start for %v", grown, again)
	}
	for _, l := range all {
		l.goOn(u, "after a start")
	}
	u.die()
}

// TestGrowthLimit: what does not fit is an error that says what was needed, and
// changes nothing.
func TestGrowthLimit(t *testing.T) {
	r := newBareRig(t)
	r.load(func(o loader.Options) (*loader.Datapath, error) {
		o.Sizes.Addresses = loader.MinAddresses
		return loader.Open(o)
	})
	must(t, r.dp.SetReady(true))
	must(t, r.dp.Attach(r.cg.Path()))
	addrs := many(loader.MinAddresses + 1)
	direct := func(a netip.Addr) policy.Opening {
		return policy.Opening{Prefix: netip.PrefixFrom(a, a.BitLen()), Port: 443, Transport: policy.TCP, Verdict: policy.Direct}
	}
	var static []policy.Opening
	for _, a := range addrs {
		static = append(static, direct(a))
	}
	open := direct(netip.MustParseAddr(families[0].alt))
	must(t, inForce(r.dp, open))
	var full *grow.FullError
	err := r.dp.Tighten(only(static...))
	if !errors.As(err, &full) || full.Table != "egd_addrs" || full.Need != len(static) || full.Limit != loader.MinAddresses {
		t.Errorf("a policy that is too big: %v", err)
	}
	// The same as a change of what is in force, which is as much as fits.
	more := only(static[1:]...)
	more.Old = more.Next
	err = r.dp.Tighten(more)
	if !errors.As(err, &full) || full.Need != len(static) {
		t.Errorf("a change that is too big: %v", err)
	}
	if f := r.dp.Fills()["egd_addrs"]; f != (loader.Fill{Entries: 1, Max: loader.MinAddresses}) {
		t.Errorf("after it the table has %+v", f)
	}
	// What is learned fills it to the last entry.
	learned := 0
	for _, a := range addrs {
		if err = r.dp.SetAddress(testPolicy, a, []policy.Opening{direct(a)}); err != nil {
			break
		}
		learned++
	}
	if !errors.As(err, &full) || learned != loader.MinAddresses-1 {
		t.Errorf("after %d addresses: %v", learned, err)
	}
	// One entry may change, and one goes for another.
	o := direct(addrs[0])
	o.Verdict = policy.Proxy
	must(t, r.dp.SetAddress(testPolicy, addrs[0], []policy.Opening{o}))
	must(t, r.dp.SetAddress(testPolicy, addrs[0], nil))
	must(t, r.dp.SetAddress(testPolicy, addrs[learned], []policy.Opening{direct(addrs[learned])}))
}

// TestKernelMemory: an empty policy's tables take at most 16 MB, as the kernel
// counts it, and that is what is said.
func TestKernelMemory(t *testing.T) {
	r := newRig(t)
	var sum uint64
	names, err := filepath.Glob(filepath.Join(r.pins, "egd_*"))
	must(t, err)
	for _, path := range names {
		m, err := ebpf.LoadPinnedMap(path, nil)
		must(t, err)
		for _, m := range []*ebpf.Map{m, tableIn(t, m)} {
			info, err := m.Info()
			must(t, err)
			if n, ok := info.Memlock(); ok {
				sum += n
			}
			if m.Type() != ebpf.ArrayOfMaps {
				break
			}
		}
		m.Close()
	}
	said := r.dp.Memory()
	if said > 16_000_000 {
		t.Errorf("the tables take %d bytes as it is said", said)
	}
	if !countsMemory(t) {
		t.Log("before Linux 6.4 the kernel tells no more than what a full table may take")
		return
	}
	t.Logf("the kernel counts %s, egressd %s", memcg.MiB(sum), memcg.MiB(said))
	if sum < 1<<20 || sum > 16_000_000 {
		t.Errorf("the tables take %d bytes", sum)
	}
	if said < sum*9/10 || said > sum*11/10 {
		t.Errorf("the tables take %d bytes, and %d are said", sum, said)
	}
}

// countsMemory says whether the kernel tells what a map takes, and not what it
// might when it is full.
func countsMemory(t *testing.T) bool {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 256, ValueSize: 256, MaxEntries: 1 << 16, Flags: 1})
	must(t, err)
	defer m.Close()
	info, err := m.Info()
	must(t, err)
	n, ok := info.Memlock()
	return ok && n < 1<<24
}

// TestFlowSizes: the tables that flows fill have the size that was asked for, and
// what belongs to open sockets the one that it has.
func TestFlowSizes(t *testing.T) {
	u := newUpgradeRig(t)
	with := func(flows int) {
		u.load(func(o loader.Options) (*loader.Datapath, error) {
			o.Renew, o.Sizes.Flows = true, flows
			return loader.Open(o)
		})
		u.apply(u.openings)
		must(t, u.dp.SetReady(true))
		must(t, u.dp.Attach(u.cg.Path()))
	}
	size := func(name string) uint32 {
		m, err := ebpf.LoadPinnedMap(filepath.Join(u.pins, name), nil)
		must(t, err)
		defer m.Close()
		return m.MaxEntries()
	}
	with(4096)
	c := u.talk(u.world.Node, u.cg, "steps-tcp", hostport(families[0].vip, vipPort))
	c.next()
	for _, flows := range []int{4096, 8192, 2048} {
		must(t, u.dp.Close())
		with(flows)
		for name, want := range map[string]int{"egd_flows": flows, "egd_flow_hello": flows, "egd_peers": flows / 4, "egd_dialled": 4096} {
			if got := size(name); got != uint32(want) {
				t.Errorf("for %d flows %s has room for %d entries, want %d", flows, name, got, want)
			}
		}
		if got := c.ask("ping"); got.Data != "echoed" {
			t.Errorf("for %d flows: %+v", flows, got)
		}
		if f := u.dp.Fills()["egd_dialled"]; f != (loader.Fill{Entries: 1, Max: 4096}) {
			t.Errorf("for %d flows egd_dialled has %+v", flows, f)
		}
	}
}
