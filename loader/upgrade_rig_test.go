// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/layout"
	"github.com/egressd/egressd/loader/telemetry"
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
	for _, names := range layout.Renewed {
		for _, name := range names {
			switch m := s.Maps[name]; m.Type {
			case ebpf.Array, ebpf.PerCPUArray, ebpf.ArrayOfMaps:
				m.MaxEntries *= 2
			default:
				m.MaxEntries /= 2
			}
		}
	}
}

// oneTable is a version of which one table differs.
func oneTable(s *ebpf.CollectionSpec) { s.Maps["egd_addrs"].MaxEntries *= 2 }

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
		u.done <- dp.Events(func(e telemetry.KernelEvent) {
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
	want := slices.Concat(append(layout.Renewed[:], layout.Kept)...)
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
	for _, name := range layout.Kept {
		if before[name] != now[name] {
			u.t.Errorf("%s was not kept", name)
		}
	}
	for _, names := range layout.Renewed {
		for _, name := range names {
			testenv.Until(u.t, name+" of the older version is freed", func() bool {
				m, err := ebpf.NewMapFromID(before[name])
				if err == nil {
					m.Close()
				}
				return errors.Is(err, os.ErrNotExist)
			})
		}
	}
}
