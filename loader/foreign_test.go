// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/foreign"
	"github.com/egressd/egressd/policy"
)

const (
	rewrittenPort = 7003
)

// shove sends the first packet of a connection, or a datagram, and does not wait
// for an answer: where the program of somebody else leads nobody may be.
func shove(addr netip.AddrPort, op string) error {
	kind, how, _ := strings.Cut(op, "-")
	typ := unix.SOCK_DGRAM
	if kind == "tcp" {
		typ = unix.SOCK_STREAM
	}
	fd, sa, err := socket(addr, typ|unix.SOCK_NONBLOCK, how == "mapped")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch {
	case kind == "sendto":
		return unix.Sendto(fd, []byte("hello"), 0, sa)
	case how == "fastopen":
		return unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, sa)
	}
	if err := unix.Connect(fd, sa); err != nil || kind == "tcp" {
		return err
	}
	_, err = unix.Write(fd, []byte("hello"))
	return err
}

// TestForeignRewrite: a program of somebody else behind those of connect() and
// sendto() cannot send what was allowed to another address, nor what was to go to
// egressd or to the node itself.
func TestForeignRewrite(t *testing.T) {
	r := newRig(t)
	r.serveEvents()
	allowed := map[bool]string{false: "203.0.113.77", true: "2001:db8:bad::77"}
	for _, a := range allowed {
		addr := netip.MustParseAddr(a)
		_, err := r.world.AddTCP(netip.AddrPortFrom(addr, rewrittenPort), "hello")
		must(t, err)
		_, err = r.world.AddUDP(netip.AddrPortFrom(addr, rewrittenPort))
		must(t, err)
		must(t, r.dp.SetAddress(testPolicy, addr, []policy.Opening{
			{Port: rewrittenPort, Transport: policy.TCP, Verdict: policy.Direct},
			{Port: rewrittenPort, Transport: policy.UDP, Verdict: policy.Direct},
			{Port: 443, Transport: policy.TCP, Verdict: policy.Inspect, Name: "a.example"},
			{Port: 80, Transport: policy.TCP, Verdict: policy.Proxy},
		}))
	}
	beside := testenv.Cgroup(t)
	strangers := []string{world.StrangerV4, world.StrangerV6}
	packets := func() (sum int) {
		for _, s := range strangers {
			sum += r.world.Packets(netip.MustParseAddr(s))
		}
		return sum
	}
	type attempt struct {
		op, to string
		passes bool // without the foreign program
	}
	var all []attempt
	for _, v6 := range []bool{false, true} {
		lo := map[bool]string{false: "127.0.0.1", true: "::1"}[v6]
		for _, op := range []string{"tcp", "udp", "sendto"} {
			all = append(all,
				attempt{op, hostport(allowed[v6], rewrittenPort), true},
				attempt{op, hostport(allowed[v6], 53), true}, // to the DNS proxy
				attempt{op, hostport(lo, rewrittenPort), false})
			if !v6 {
				all = append(all, attempt{op + "-mapped", hostport(allowed[v6], rewrittenPort), true})
			}
		}
		all = append(all,
			attempt{"tcp-fastopen", hostport(allowed[v6], rewrittenPort), false},
			attempt{"tcp", hostport(allowed[v6], 443), false}, // inspect
			attempt{"tcp", hostport(allowed[v6], 80), true})   // proxy
	}
	for _, a := range all {
		if a.passes {
			if got := r.run(true, a.op, a.to); got.Data == "" {
				t.Errorf("without a foreign program: %+v: %+v", a, got)
			}
		}
	}
	for _, mapped := range []bool{false, true} {
		v4, v6 := netip.MustParseAddr(world.StrangerV4), netip.MustParseAddr(world.StrangerV6)
		if mapped {
			v6 = v4
		}
		in := testenv.Rewrite(t, r.cg.Path(), v4, v6)
		out := testenv.Rewrite(t, beside.Path(), v4, v6)
		for _, a := range all {
			if strings.HasSuffix(a.op, "-mapped") != mapped {
				continue
			}
			before := quiet(packets) // a twin's connection may end a moment later
			got := r.run(true, "shove", a.to, a.op)
			if n := packets() - before; n > 0 {
				t.Errorf("%s to %s: %d packets to where the foreign program leads: %+v", a.op, a.to, n, got)
			}
			// The twin: the same program over a cgroup that is not captured.
			before = packets()
			got = r.runIn(r.world.Node, beside, "shove", a.to, a.op)
			if packets() == before {
				t.Errorf("%s to %s beside the captured cgroup: no packet to where the foreign program leads: %+v", a.op, a.to, got)
			}
		}
		in()
		out()
	}
}

// quiet waits until a count has not changed for a while, which is long for packets
// on a veth, and returns it.
func quiet(count func() int) int {
	const long, every = 200 * time.Millisecond, 10 * time.Millisecond
	n, since := count(), time.Now()
	for time.Since(since) < long {
		time.Sleep(every)
		if now := count(); now != n {
			n, since = now, time.Now()
		}
	}
	return n
}

// TestForeignListed: what stands beside egressd's programs is known, with its
// place, and is no fault.
func TestForeignListed(t *testing.T) {
	r := newRig(t)
	lock, err := bpffs.LockDir(r.pins)
	must(t, err)
	defer lock.Close()
	look := func() []foreign.Program {
		t.Helper()
		if faults := r.dp.Hold(loader.HoldOptions{Lock: lock}); len(faults) > 0 {
			t.Errorf("faults: %v", faults)
		}
		var mine []foreign.Program
		for _, p := range r.dp.Foreign() {
			if p.Name == testenv.Rewriter {
				mine = append(mine, p)
			}
		}
		return mine
	}
	if all := look(); len(all) > 0 {
		t.Errorf("nobody is there: %+v", all)
	}
	detach := testenv.Rewrite(t, r.cg.Path(), netip.MustParseAddr(world.StrangerV4), netip.MustParseAddr(world.StrangerV6))
	hooks := map[string]bool{}
	for _, p := range look() {
		hooks[p.Hook] = true
		if p.Before || p.Cgroup != r.cg.Path() || !p.Rewrites() ||
			p.Detach() != fmt.Sprintf("bpftool cgroup detach %s %s id %d", r.cg.Path(), p.Hook, p.ID) {
			t.Errorf("%+v: %s", p, p.Detach())
		}
	}
	if len(hooks) != 4 {
		t.Errorf("hooks: %v", hooks)
	}
	// One that was there first.
	must(t, r.dp.Unload())
	must(t, r.dp.Close())
	must(t, lock.Close())
	r.open()
	if lock, err = bpffs.LockDir(r.pins); err != nil {
		t.Fatal(err)
	}
	for _, p := range look() {
		if !p.Before {
			t.Errorf("%+v, want it before", p)
		}
	}
	detach()
	if all := look(); len(all) > 0 {
		t.Errorf("they are gone: %+v", all)
	}
}

// TestForeignAlone: a program that lets no other one beside or below it is named,
// with the way to be rid of it.
func TestForeignAlone(t *testing.T) {
	for _, above := range []bool{false, true} {
		r := newBareRig(t)
		r.load(loader.Open)
		must(t, r.dp.SetReady(true))
		at := r.cg
		to := r.cg
		if above {
			child, err := r.cg.Child("below")
			must(t, err)
			t.Cleanup(func() { must(t, child.Close()) })
			to = child
		}
		id, detach := testenv.Alone(t, at.Path(), "connect4")
		err := r.dp.Attach(to.Path())
		remedy := fmt.Sprintf("bpftool cgroup detach %s connect4 id %d", at.Path(), id)
		if err == nil || !strings.Contains(err.Error(), remedy) || !strings.Contains(err.Error(), "\"alone\"") {
			t.Errorf("above %v: %v, want %q in it", above, err, remedy)
		}
		detach()
		if err := r.dp.Attach(to.Path()); err != nil {
			t.Errorf("above %v: the remedy does not help: %v", above, err)
		}
	}
}
