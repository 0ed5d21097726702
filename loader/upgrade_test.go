// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

const (
	directPort = 7001
	udpPort    = 7002
)

// closedAddrs are reached by nobody who is captured.
var closedAddrs = [...]string{"203.0.113.103", "2001:db8:bad::103"}

// versions have the same programs and other maps, as far as maps may change.
var versions = [...]func(*ebpf.CollectionSpec){
	func(*ebpf.CollectionSpec) {},
	resized,
	oneTable,
}

// resized is a version of which every table differs.
func resized(s *ebpf.CollectionSpec) {
	for _, names := range loader.Renewed() {
		for _, name := range names {
			switch m := s.Maps[name]; m.Type {
			case ebpf.Array, ebpf.PerCPUArray:
				m.MaxEntries *= 2
			default:
				m.MaxEntries /= 2
			}
		}
	}
}

// oneTable is a version of which one table differs.
func oneTable(s *ebpf.CollectionSpec) { s.Maps["egd_addrs"].MaxEntries /= 2 }

// upgradeRig is a rig whose datapath changes its version.
type upgradeRig struct {
	*rig
	done chan error // of the events of the datapath
	// openings are what the policy allows.
	openings []policy.Opening
}

func newUpgradeRig(t *testing.T) *upgradeRig {
	t.Helper()
	u := &upgradeRig{rig: newBareRig(t)}
	for _, f := range families[:2] {
		end := hostport(f.end, endPort)
		u.echo(f.end, endPort, "")
		u.echo(f.alt, directPort, "")
		u.echo(f.alt, inspectPort, "")
		for _, a := range []string{end, hostport(f.alt, udpPort)} {
			_, err := u.world.AddUDP(netip.MustParseAddrPort(a))
			must(t, err)
		}
		u.openings = append(u.openings, service(f.vip, policy.Direct, endpoints(end), "")...)
		alt := netip.MustParseAddr(f.alt)
		p := netip.PrefixFrom(alt, alt.BitLen())
		u.openings = append(u.openings,
			policy.Opening{Prefix: p, Port: directPort, Transport: policy.TCP, Verdict: policy.Direct},
			policy.Opening{Prefix: p, Port: udpPort, Transport: policy.UDP, Verdict: policy.Direct},
			policy.Opening{Prefix: p, Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: goodName})
	}
	for _, a := range closedAddrs {
		u.echo(a, directPort, "")
		_, err := u.world.AddUDP(netip.MustParseAddrPort(hostport(a, directPort)))
		must(t, err)
	}
	return u
}

// begin loads a version and fills its tables.
func (u *upgradeRig) begin(version int) {
	u.t.Helper()
	u.load(func(o loader.Options) (*loader.Datapath, error) { return loader.OpenAs(o, versions[version]) })
	dp := u.dp
	u.done = make(chan error, 1)
	go func() {
		u.done <- dp.Events(func(e loader.Event) {
			if e.Cut() && e.Interface == 0 {
				rest := func() ([]int, error) { return cgroup.AllProcs(u.cg.Path()) }
				if err := u.world.Node.Do(func() error { return dp.Destroy(e.Socket(), e.PID, rest) }); err != nil {
					u.t.Error(err)
				}
			}
		})
	}()
	u.apply(u.openings)
	must(u.t, dp.SetReady(true))
}

// start is begin, and puts the version in the place of the one that is there.
func (u *upgradeRig) start(version int) {
	u.t.Helper()
	u.begin(version)
	must(u.t, u.dp.Attach(u.cg.Path()))
}

// die ends the daemon; the programs go on.
func (u *upgradeRig) die() {
	u.t.Helper()
	must(u.t, u.dp.Close())
	must(u.t, <-u.done)
}

// live are connections of every kind that goes straight, of one family.
type live struct {
	name                                       string
	direct, proven, endpoint, udp, udpEndpoint *talker
	unsentGood, unsentBad, halfGood, halfBad   *talker
}

func (u *upgradeRig) connect(i int) *live {
	u.t.Helper()
	f := families[i]
	dial := func(op, dst string) *talker {
		c := u.talk(u.world.Node, u.cg, op, dst)
		if got := c.next(); got.Peer != dst {
			u.t.Fatalf("%s to %s: %+v", op, dst, got)
		}
		return c
	}
	inspected := hostport(f.alt, inspectPort)
	l := &live{
		name:        f.name,
		direct:      dial("steps-tcp", hostport(f.alt, directPort)),
		proven:      dial("steps-tcp", inspected),
		endpoint:    dial("steps-tcp", hostport(f.vip, vipPort)),
		udp:         dial("steps-udp", hostport(f.alt, udpPort)),
		udpEndpoint: dial("steps-udp", hostport(f.vip, vipPort)),
		unsentGood:  dial("steps-tcp", inspected),
		unsentBad:   dial("steps-tcp", inspected),
		halfGood:    dial("steps-tcp", inspected),
		halfBad:     dial("steps-tcp", inspected),
	}
	for c, word := range map[*talker]string{
		l.proven: "hello " + goodName, l.halfGood: "half " + goodName, l.halfBad: "half evil.example",
	} {
		if got := c.ask(word); got.Data != "echoed" {
			u.t.Fatalf("%s: %s: %+v", f.name, word, got)
		}
	}
	l.goOn(u, "at first")
	return l
}

// goOn checks that what is open and allowed works.
func (l *live) goOn(u *upgradeRig, when string) {
	u.t.Helper()
	for name, c := range map[string]*talker{
		"direct": l.direct, "proven": l.proven, "endpoint": l.endpoint, "UDP": l.udp, "UDP to an endpoint": l.udpEndpoint,
	} {
		if got := c.ask("ping"); got.Data != "echoed" {
			u.t.Errorf("%s: %s, %s: %+v", when, l.name, name, got)
		}
	}
}

// judge checks that what has not shown its name yet is judged by it.
func (l *live) judge(u *upgradeRig, when string) {
	u.t.Helper()
	for _, c := range []struct {
		who  *talker
		word string
		good bool
	}{
		{l.unsentGood, "hello " + goodName, true}, {l.halfGood, "rest " + goodName, true},
		{l.unsentBad, "hello evil.example", false}, {l.halfBad, "rest evil.example", false},
	} {
		got := c.who.ask(c.word)
		if c.good && got.Data != "echoed" || !c.good && !isReset(got) {
			u.t.Errorf("%s: %s: %s: %+v", when, l.name, c.word, got)
		}
	}
}

func isReset(r result) bool {
	return r.Errno == "ECONNABORTED" || r.Errno == "ECONNRESET" || r.Errno == "EPIPE"
}

// knocker is a client that tries what is open and what is not all the time.
func (u *upgradeRig) knocker(family int) *talker {
	u.t.Helper()
	c := u.talk(u.world.Node, u.cg, "knock", hostport(families[family].alt, directPort),
		hostport(closedAddrs[0], directPort), hostport(closedAddrs[1], directPort))
	if got := c.next(); got.Data != "ready" {
		u.t.Fatalf("%+v", got)
	}
	return c
}

// noLeaks ends the knockers and checks that nothing closed was reached; their
// twin, that it can be.
func (u *upgradeRig) noLeaks(knockers ...*talker) {
	u.t.Helper()
	for _, k := range knockers {
		got := k.again()
		if n, err := strconv.Atoi(got.Data); err != nil || n < 1 {
			u.t.Errorf("knocking: %+v", got)
		}
	}
	for _, a := range closedAddrs {
		if n := u.world.Packets(netip.MustParseAddr(a)); n != 0 {
			u.t.Errorf("%d packets to %s left", n, a)
		}
		for _, op := range []string{"tcp", "udp"} {
			if got := u.run(false, op, hostport(a, directPort)); got.Data != "hello" {
				u.t.Errorf("uncaptured: %s %s: %+v", op, a, got)
			}
		}
		if u.world.Packets(netip.MustParseAddr(a)) == 0 {
			u.t.Errorf("the tap saw nothing of what went to %s", a)
		}
	}
}

// pinned are the ids of the pinned maps by name; it checks that no others are.
func (u *upgradeRig) pinned() map[string]ebpf.MapID {
	u.t.Helper()
	entries, err := os.ReadDir(u.pins)
	must(u.t, err)
	ids, links := map[string]ebpf.MapID{}, 0
	for _, e := range entries {
		if m, err := ebpf.LoadPinnedMap(filepath.Join(u.pins, e.Name()), nil); err == nil {
			info, err := m.Info()
			must(u.t, err)
			ids[e.Name()], _ = info.ID()
			m.Close()
			continue
		}
		links++
	}
	want := slices.Concat(append(loader.Renewed(), loader.Kept())...)
	for _, name := range want {
		if ids[name] == 0 {
			u.t.Errorf("%s is not pinned", name)
		}
	}
	if len(ids) != len(want) || links != u.dp.Links() {
		u.t.Errorf("pinned: maps %v and %d links", ids, links)
	}
	return ids
}

// config is what egd_config has.
func (u *upgradeRig) config() (c bpf.EgressdEgdConfig) {
	u.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(u.pins, "egd_config"), nil)
	must(u.t, err)
	defer m.Close()
	must(u.t, m.Lookup(uint32(0), &c))
	return c
}

// gone checks that maps are no more, whose pins and programs were replaced.
func (u *upgradeRig) gone(before, now map[string]ebpf.MapID) {
	u.t.Helper()
	for _, name := range loader.Kept() {
		if before[name] != now[name] {
			u.t.Errorf("%s was not kept", name)
		}
	}
	for _, names := range loader.Renewed() {
		for _, name := range names {
			await(u.t, name+" of the older version is freed", func() bool {
				m, err := ebpf.NewMapFromID(before[name])
				if err == nil {
					m.Close()
				}
				return errors.Is(err, os.ErrNotExist)
			})
		}
	}
}

// TestUpgrade: another version with other tables takes over what is open,
// twice, and nothing passes meanwhile that should not.
func TestUpgrade(t *testing.T) {
	u := newUpgradeRig(t)
	u.start(1)
	for round := range 2 {
		all := []*live{u.connect(0), u.connect(1)}
		var bad []*talker
		knockers := []*talker{u.knocker(0), u.knocker(1)}
		programs, before, config := u.dp.Attached(), u.pinned(), u.config()
		for _, f := range families[:2] {
			c := u.talk(u.world.Node, u.cg, "steps-tcp", hostport(f.alt, inspectPort))
			if got := c.next(); got.Errno != "" {
				t.Fatalf("%+v", got)
			}
			bad = append(bad, c)
		}
		u.die()
		// Cut while nobody listens: it is told again to who comes.
		u.cutSilently(bad)
		u.start(round)
		when := fmt.Sprint("upgrade ", round)
		for name, id := range u.dp.Attached() {
			if programs[name] == id {
				t.Errorf("%s: the program of %s was not replaced", when, name)
			}
		}
		if len(u.dp.Attached()) != len(programs) || !u.dp.Adopted() {
			t.Errorf("%s: attached %v, adopted %v", when, u.dp.Attached(), u.dp.Adopted())
		}
		u.gone(before, u.pinned())
		if c := u.config(); c.Epoch <= config.Epoch || c.Ring <= config.Ring || c.LastSet <= config.LastSet {
			t.Errorf("%s: numbers go on from %+v with %+v", when, config, c)
		}
		for _, c := range bad {
			if got := c.next(); !isReset(got) {
				t.Errorf("%s: cut by the older version: %+v, want a reset", when, got)
			}
		}
		for _, l := range all {
			l.goOn(u, when)
			l.judge(u, when)
		}
		if round == 0 {
			for _, k := range knockers {
				if got := k.again(); got.Errno != "" {
					t.Errorf("%s: knocking: %+v", when, got)
				}
			}
		} else {
			u.noLeaks(knockers...)
		}
		// A stricter policy cuts what was taken over.
		u.apply()
		for _, l := range all {
			for _, c := range []*talker{l.direct, l.proven, l.endpoint, l.unsentGood} {
				if got := c.ask("ping"); !isReset(got) {
					t.Errorf("%s: %s, denied now: %+v", when, l.name, got)
				}
			}
			for _, c := range []*talker{l.udp, l.udpEndpoint} {
				if got := c.ask("ping"); got.Errno != "EPERM" {
					t.Errorf("%s: %s, UDP, denied now: %+v", when, l.name, got)
				}
			}
		}
		u.apply(u.openings)
	}
	u.die()
}

// cutSilently lets connections send a hello that the pinned programs refuse.
func (u *upgradeRig) cutSilently(bad []*talker) {
	u.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(u.pins, "egd_counters"), nil)
	must(u.t, err)
	defer m.Close()
	refused := func() (sum uint64) {
		var perCPU []uint64
		must(u.t, m.Lookup(uint32(bpf.EgressdEgdReasonEGD_R_NAME), &perCPU))
		for _, n := range perCPU {
			sum += n
		}
		return sum
	}
	before := refused()
	for _, c := range bad {
		_, err := io.WriteString(c.in, "hello evil.example\n")
		must(u.t, err)
	}
	await(u.t, "the hellos are refused", func() bool { return refused() >= before+uint64(len(bad)) })
}

// TestUpgradeInterrupted: whatever was replaced when a start ended, the next one
// takes over, be it the new version again or the old one.
func TestUpgradeInterrupted(t *testing.T) {
	u := newUpgradeRig(t)
	u.start(0)
	all := []*live{u.connect(0), u.connect(1)}
	knockers := []*talker{u.knocker(0), u.knocker(1)}
	is, links := 0, u.dp.Links()
	u.die()
	for _, c := range []struct {
		links, pins int
		back        bool // to the version that was there
	}{
		{1, 0, false}, {2, 0, true}, {12, 0, false}, {13, 0, true}, {links, 1, false}, {links, 5, true},
	} {
		when := fmt.Sprintf("interrupted after %d links and %d pins, back %v", c.links, c.pins, c.back)
		u.begin(1 - is)
		must(t, u.dp.AttachSome(u.cg.Path(), c.links, c.pins))
		u.die()
		for _, l := range all {
			l.goOn(u, when)
		}
		// A second one in the same place.
		u.begin(1 - is)
		must(t, u.dp.AttachSome(u.cg.Path(), c.links, c.pins))
		u.die()
		if !c.back {
			is = 1 - is
		}
		u.start(is)
		if !u.dp.Adopted() {
			t.Errorf("%s: not adopted", when)
		}
		u.pinned()
		for _, l := range all {
			l.goOn(u, when)
		}
		u.die()
	}
	u.start(is)
	for _, l := range all {
		l.judge(u, "at last")
	}
	u.noLeaks(knockers...)
	u.die()
}

// TestUpgradeHalfPinned: tables of two versions are never taken for one set,
// even if each fits by itself. What has nothing to do with them is taken over.
func TestUpgradeHalfPinned(t *testing.T) {
	u := newUpgradeRig(t)
	u.start(0)
	l := u.connect(0)
	before := u.pinned()
	u.die()
	u.begin(2)
	must(t, u.dp.AttachSome(u.cg.Path(), u.dp.Links(), 1)) // egd_addrs is in place
	u.die()
	u.start(2)
	now := u.pinned()
	for i, names := range loader.Renewed() {
		for _, name := range names {
			// All that was pinned when it was interrupted is made anew, once.
			if before[name] == now[name] {
				t.Errorf("%s, of line %d, was taken over", name, i)
			}
		}
	}
	l.goOn(u, "after it")
	u.die()
	u.start(0)
	third := u.pinned()
	for i, names := range loader.Renewed() {
		for _, name := range names {
			if (third[name] != now[name]) != (i == 0) {
				t.Errorf("%s, of line %d: %d and now %d", name, i, now[name], third[name])
			}
		}
	}
	l.goOn(u, "back again")
	l.judge(u, "back again")
	u.die()
}

// TestPublishedByToday: a socket that was connected to a DNS server before its
// workload got other numbers asks under the new ones.
func TestPublishedByToday(t *testing.T) {
	r := newRig(t)
	for _, f := range families[:2] {
		id, err := r.cg.ID()
		must(t, err)
		for _, w := range []loader.Workload{{ID: 1, Policy: testPolicy}, {ID: 5, Policy: 7}} {
			must(t, r.dp.SetWorkload(id, w))
			must(t, r.dp.RaiseEpoch())
			dst := hostport(f.alt, 53)
			c := r.talk(r.world.Node, r.cg, "steps-udp", dst)
			if got := c.next(); got.Peer != dst {
				t.Fatalf("%s: %+v", f.name, got)
			}
			next := loader.Workload{ID: w.ID + 1, Policy: w.Policy + 1}
			for _, who := range []loader.Workload{w, next} {
				must(t, r.dp.SetWorkload(id, who))
				must(t, r.dp.RaiseEpoch())
				c.ask("ping") // is answered, with something else
				now := r.published()
				if len(now) != 1 || now[0].Workload != who.ID || now[0].Policy != uint32(who.Policy) {
					t.Errorf("%s: published %+v, want %+v", f.name, now, who)
				}
			}
			c.end()
		}
	}
}

// published is what is in egd_origins.
func (r *rig) published() (all []bpf.EgressdEgdOrigin) {
	r.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, "egd_origins"), nil)
	must(r.t, err)
	defer m.Close()
	var k bpf.EgressdEgdOriginKey
	var v bpf.EgressdEgdOrigin
	for it := m.Iterate(); it.Next(&k, &v); {
		all = append(all, v)
	}
	return all
}

// TestKeptLayout: state of sockets in another layout is an error, and nothing
// is touched.
func TestKeptLayout(t *testing.T) {
	u := newUpgradeRig(t)
	u.start(0)
	before := u.pinned()
	u.die()
	for _, name := range loader.Kept() {
		err := u.world.Node.Do(func() error {
			dp, err := loader.OpenAs(loader.Options{PinDir: u.pins}, func(s *ebpf.CollectionSpec) {
				// The programs don't mind, the pinned map does.
				if m := s.Maps[name]; m.Type == ebpf.SkStorage {
					m.Flags |= 1 << 9 // BPF_F_CLONE
				} else {
					m.MaxEntries *= 2
				}
			})
			if err == nil {
				dp.Close()
			}
			return err
		})
		if !errors.Is(err, loader.ErrABIMismatch) {
			t.Errorf("%s: %v, want ErrABIMismatch", name, err)
		}
	}
	if now := u.pinned(); fmt.Sprint(before) != fmt.Sprint(now) {
		t.Errorf("pinned before %v, now %v", before, now)
	}
	if got := u.run(true, "tcp", hostport(closedAddrs[0], directPort)); got.Errno != "ECONNREFUSED" {
		t.Errorf("%+v", got)
	}
}
