// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/layout"
)

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
	testenv.Until(u.t, "the hellos are refused", func() bool { return refused() >= before+uint64(len(bad)) })
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
	for i, names := range layout.Renewed {
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
	for i, names := range layout.Renewed {
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
		for _, w := range []loader.WorkloadState{{ID: 1, Policy: testPolicy}, {ID: 5, Policy: 7}} {
			must(t, r.dp.SetWorkload(id, w))
			must(t, r.dp.RaiseEpoch())
			dst := hostport(f.alt, 53)
			c := r.talk(r.world.Node, r.cg, "steps-udp", dst)
			if got := c.next(); got.Peer != dst {
				t.Fatalf("%s: %+v", f.name, got)
			}
			next := loader.WorkloadState{ID: w.ID + 1, Policy: w.Policy + 1}
			for _, who := range []loader.WorkloadState{w, next} {
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
	for _, name := range layout.Kept {
		err := u.world.Node.Do(func() error {
			dp, err := loader.OpenAs(loader.Options{PinDir: u.pins}, func(s *ebpf.CollectionSpec) {
				// The programs don't mind, the pinned map does.
				if m := s.Maps[name]; m.Type == ebpf.SkStorage {
					m.Flags |= 1 << 9 // BPF_F_CLONE
				} else {
					m.Flags &^= 1 // BPF_F_NO_PREALLOC
				}
			})
			if err == nil {
				dp.Close()
			}
			return err
		})
		if !errors.Is(err, layout.ErrMismatch) {
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
