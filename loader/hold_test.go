// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/kernel"
	"github.com/egressd/egressd/policy"
)

// holder is a rig whose pin directory is locked.
type holder struct {
	*rig
	lock *bpffs.PinLock
}

func newHolder(t *testing.T) *holder {
	t.Helper()
	h := &holder{rig: newRig(t)}
	var err error
	h.lock, err = bpffs.LockDir(h.pins)
	must(t, err)
	t.Cleanup(func() { h.lock.Close() })
	h.sees("from the beginning on")
	return h
}

// look is Hold as the daemon calls it.
func (h *holder) look() (faults []loader.Loss) {
	h.t.Helper()
	must(h.t, h.world.Node.Do(func() error {
		faults = h.dp.Hold(loader.HoldOptions{Lock: h.lock})
		return nil
	}))
	return faults
}

// sees fails the test unless exactly these things were missing, and are back.
func (h *holder) sees(when string, want ...string) {
	h.t.Helper()
	var got []string
	for _, f := range h.look() {
		if f.Err != nil {
			h.t.Errorf("%s: %s %s: %v", when, f.Kind, f.What, f.Err)
		}
		got = append(got, string(f.Kind)+" "+f.What)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		h.t.Errorf("%s: missing were %q, want %q", when, got, want)
	}
	if len(want) > 0 {
		h.sees(when + ", a second look")
	}
}

// reaches says whether a captured process reaches the stranger.
func (h *holder) reaches(when string, want bool) {
	h.t.Helper()
	for _, a := range []string{world.StrangerV4, world.StrangerV6} {
		if got := h.run(true, "tcp", hostport(a, 443)); (got.Errno != "ECONNREFUSED") != want {
			h.t.Errorf("%s: %s: %+v, want it reached: %v", when, a, got, want)
		}
	}
}

// TestHoldHooks: a program that somebody takes from its hook, or puts another one
// in the place of, is back after a look, and pinned.
func TestHoldHooks(t *testing.T) {
	h := newHolder(t)
	pins, err := filepath.Glob(filepath.Join(h.pins, "link_egd_*"))
	must(t, err)
	if len(pins) != h.dp.Links() {
		t.Fatalf("%d pinned links of %d", len(pins), h.dp.Links())
	}
	hook := func(pin string) string { return "hook " + strings.TrimPrefix(filepath.Base(pin), "link_") }
	for _, pin := range pins {
		testenv.DetachLink(t, pin)
		h.sees(pin, hook(pin))
	}
	for _, f := range []string{"4", "6"} {
		testenv.DetachLink(t, filepath.Join(h.pins, "link_egd_connect"+f))
	}
	h.reaches("detached", true)
	h.sees("both families", "hook egd_connect4", "hook egd_connect6")
	h.reaches("attached again", false)

	// Another program in the same link.
	pin := filepath.Join(h.pins, "link_egd_connect4")
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	defer p.Close()
	l, err := link.LoadPinnedLink(pin, nil)
	must(t, err)
	must(t, errors.Join(l.Update(p), l.Close()))
	h.sees("another program in the link", hook(pin))
	h.reaches("its own program again", false)

	// All of it is pinned: nothing but the pins holds it now.
	must(t, h.dp.Close())
	h.reaches("without the daemon", false)
}

// TestHoldPins: pins that are removed, or are not ours any more, are made again, in
// another directory and on another filesystem too.
func TestHoldPins(t *testing.T) {
	h := newHolder(t)
	names := func() (names []string) {
		t.Helper()
		entries, err := os.ReadDir(h.pins)
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	before := names()
	var all []string
	for _, name := range before {
		all = append(all, "pin "+name)
		must(t, os.Remove(filepath.Join(h.pins, name)))
	}
	h.sees("each pin removed", all...)

	// What another one has pinned in their places.
	for _, two := range [][2]string{{"egd_workloads", "egd_addrs"}, {"link_egd_connect4", "link_egd_connect6"}} {
		must(t, os.Rename(filepath.Join(h.pins, two[0]), filepath.Join(h.pins, two[1])))
		h.sees("pins that changed places", "pin "+two[0], "pin "+two[1])
	}
	withDir := append([]string{"pin the directory " + h.pins}, all...)
	must(t, os.RemoveAll(h.pins))
	h.sees("the directory removed", withDir...)

	mounted := filepath.Dir(h.pins)
	must(t, unix.Unmount(mounted, unix.MNT_DETACH))
	faults := h.look()
	if len(faults) != 1 || faults[0].Kind != loader.PinFault || faults[0].Err == nil {
		t.Errorf("unmounted: %v", faults)
	}
	h.reaches("unmounted", false)
	// What is attached again meanwhile is pinned later.
	must(t, unix.Mount("bpf", mounted, "bpf", 0, "mode=0700"))
	h.sees("another filesystem mounted", withDir...)
	if after := names(); !slices.Equal(before, after) {
		t.Errorf("pinned are %q and were %q", after, before)
	}
	must(t, h.dp.Close())
	h.reaches("without the daemon", false)
	h.open()
	if !h.dp.Adopted() {
		t.Error("the next start did not find the programs")
	}
	h.sees("the next start")

	must(t, h.dp.Unload())
	h.sees("unloaded")
	if _, err := os.Stat(h.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unloaded: %v", err)
	}
}

// TestHoldListeners: a listener that somebody removes from the table is put back.
func TestHoldListeners(t *testing.T) {
	h := newHolder(t)
	m, err := ebpf.LoadPinnedMap(filepath.Join(h.pins, "egd_listeners"), nil)
	must(t, err)
	defer m.Close()
	removed := 0
	for key := range m.MaxEntries() {
		if m.Delete(key) == nil {
			removed++
		}
	}
	if removed != len(h.sockets) {
		t.Errorf("%d entries of %d", removed, len(h.sockets))
	}
	want := make([]string, len(h.sockets))
	for i, s := range h.sockets {
		want[i] = "listener " + s.String()
	}
	h.sees("removed", want...)
}

// TestHoldSteering: rules and routes by which packets of interfaces come to egressd
// are put back.
func TestHoldSteering(t *testing.T) {
	h := newHolder(t)
	must(t, h.world.Node.Do(h.dp.Steer))
	h.sees("steered")
	for _, family := range []struct {
		number int
		name   string
	}{{netlink.FAMILY_V4, "IPv4"}, {netlink.FAMILY_V6, "IPv6"}} {
		must(t, h.world.Node.Do(func() error {
			mask := uint32(0xffffffff)
			rule := netlink.NewRule()
			rule.Family, rule.Mark, rule.Mask, rule.Table, rule.Priority = family.number, 0x65676401, &mask, 15001, 50
			routes, err := netlink.RouteListFiltered(family.number, &netlink.Route{Table: 15001}, netlink.RT_FILTER_TABLE)
			if err == nil && len(routes) != 1 {
				err = fmt.Errorf("routes: %v", routes)
			}
			if err != nil {
				return err
			}
			return errors.Join(netlink.RuleDel(rule), netlink.RouteDel(&routes[0]))
		}))
		h.sees(family.name, "interface the route of table 15001 for steered packets, "+family.name,
			"interface the rule of priority 50 for steered packets, "+family.name)
	}
	must(t, h.world.Node.Do(h.dp.Unload))
	h.sees("unloaded")
}

// TestJudged: what began while the packets were not looked at is not known to be
// allowed, if its name had to be.
func TestJudged(t *testing.T) {
	h := newHolder(t)
	stranger := netip.MustParseAddr(world.StrangerV4)
	for _, port := range []uint16{rewrittenPort, inspectPort} {
		_, err := h.world.AddTCP(netip.AddrPortFrom(stranger, port), "")
		must(t, err)
	}
	must(t, h.dp.SetAddress(testPolicy, stranger, []policy.Opening{
		{Port: rewrittenPort, Transport: policy.TCP, Verdict: policy.Direct},
		{Port: inspectPort, Transport: policy.TCP, Verdict: policy.Inspect, Name: "a.example"},
	}))
	self, err := os.Executable()
	must(t, err)
	for _, c := range []struct {
		port  int
		away  string
		known int
	}{
		{rewrittenPort, "egd_skb_egress", 1},
		{inspectPort, "egd_skb_egress", 0},
		{rewrittenPort, "egd_connect4", 0},
	} {
		testenv.DetachLink(t, filepath.Join(h.pins, "link_"+c.away))
		cmd := h.world.Node.Command(t.Context(), h.cg, self, hostport(world.StrangerV4, c.port))
		cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT=hold")
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Errorf("%s away: the client said %q, %v", c.away, line, err)
		}
		h.sees(c.away, "hook "+c.away)
		if known := h.dp.Judged([]int{cmd.Process.Pid}); len(known) != c.known {
			t.Errorf("port %d, %s away: %d connections are known to be allowed, want %d", c.port, c.away, len(known), c.known)
		}
		must(t, in.Close())
		must(t, cmd.Wait())
	}
}

// TestPinLock: two never have one pin directory, in whatever network namespaces
// they are, and who loses it to another one says so.
func TestPinLock(t *testing.T) {
	h := newHolder(t)
	other := func() (l *bpffs.PinLock, err error) {
		t.Helper()
		must(t, h.world.Net.Do(func() error {
			l, err = bpffs.LockDir(h.pins)
			return nil
		}))
		return l, err
	}
	if _, err := other(); !errors.Is(err, bpffs.ErrTaken) {
		t.Errorf("a second one: %v", err)
	}
	must(t, os.RemoveAll(h.pins))
	second, err := other()
	must(t, err)
	for range 2 {
		faults := h.look()
		if len(faults) != 1 || !errors.Is(faults[0].Err, bpffs.ErrTaken) {
			t.Errorf("another one has the directory: %v", faults)
		}
	}
	if entries, err := os.ReadDir(h.pins); err != nil || len(entries) > 0 {
		t.Errorf("pinned in the directory of another one: %v, %v", entries, err)
	}
	must(t, second.Close())
	if faults := h.look(); len(faults) < h.dp.Links() || slices.ContainsFunc(faults, func(f loader.Loss) bool { return f.Err != nil }) {
		t.Errorf("the other one is gone: %v", faults)
	}
	h.sees("after that")
	if _, err := other(); !errors.Is(err, bpffs.ErrTaken) {
		t.Errorf("a third one: %v", err)
	}
}

// TestHoldInterfaces: a program that somebody takes from a guarded interface is back
// after a look, whether it is a link or a filter.
func TestHoldInterfaces(t *testing.T) {
	t.Run("links", func(t *testing.T) {
		if !kernel.HasTCX() {
			return // the filters are what this kernel has
		}
		var pins []string
		holdInterface(t, func(h *holder, v *vm) {
			for _, program := range []string{"egd_tc_from", "egd_tc_to"} {
				pins = append(pins, "link_"+program+"_"+strconv.Itoa(v.Index))
			}
			for _, pin := range pins {
				testenv.DetachLink(t, filepath.Join(h.pins, pin))
			}
		}, func() []string { return pins })
	})
	t.Run("filters", func(t *testing.T) {
		defer loader.WithoutTCX()()
		holdInterface(t, func(h *holder, v *vm) {
			must(t, h.world.Node.Do(func() error {
				return netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
					LinkIndex: v.Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
				}})
			}))
		}, func() []string { return []string{"prog_egd_tc"} })
	})
}

// holdInterface takes the programs from a guarded interface, and then what is
// pinned for it.
func holdInterface(t *testing.T, detach func(*holder, *vm), pins func() []string) {
	t.Helper()
	v := newVM(t)
	h := &holder{rig: v.rig}
	var err error
	h.lock, err = bpffs.LockDir(h.pins)
	must(t, err)
	t.Cleanup(func() { h.lock.Close() })
	v.addEcho(rewrittenPort)
	v.guard(0)
	h.sees("guarded")
	open := func(when string, want string) {
		t.Helper()
		for _, a := range guardFamilies {
			c, got := v.dialSoon(netip.AddrPortFrom(netip.MustParseAddr(a), rewrittenPort).String())
			if c != nil {
				c.Close()
			}
			if got != want {
				t.Errorf("%s: %s: %q, want %q", when, a, got, want)
			}
		}
	}
	open("guarded", "refused")
	detach(h, v)
	open("detached", "")
	h.sees("detached", "interface "+v.Name+" egd_tc_from", "interface "+v.Name+" egd_tc_to")
	open("attached again", "refused")
	var want []string
	for _, pin := range pins() {
		want = append(want, "pin "+pin)
		must(t, os.Remove(filepath.Join(h.pins, pin)))
	}
	h.sees("pins removed", want...)
}
