// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// repairs is how often something of a kind was put back.
func (n *node) repairs(t *testing.T, kind string) int {
	t.Helper()
	count, err := strconv.Atoi(n.metric(t, `egressd_hold_repairs_total{kind="`+kind+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// nodePins is where the daemon pins.
func (n *node) nodePins() string { return filepath.Join(n.d.PinDir(), agent.NodePins) }

// isReady fails the test unless the daemon is ready, soon, or is not and says why.
func (n *node) isReady(t *testing.T, when string, want bool, because string) {
	t.Helper()
	var last answer
	eventually(t, 4*soon, fmt.Sprintf("%s: ready %v", when, want), func() bool {
		last = n.curl(t, nil, "http://127.0.0.1:15021/healthz/ready")
		return (last.status == 200) == want && strings.Contains(last.body, because)
	})
	if s := n.status(t); s.Ready != want {
		t.Errorf("%s: status says ready: %v", when, s.Ready)
	}
	text := n.egressd(t, "status").stdout
	if strings.Contains(text, "NOT HELD") == want {
		t.Errorf("%s: status:\n%s", when, text)
	}
	// Metrics are at most a second old.
	eventually(t, soon, when+": egressd_hold_failures", func() bool {
		return (n.metric(t, `egressd_hold_failures{kind="pin"}`) == "0") == want
	})
}

// TestHoldDetached: the hooks of connect() that another tool detaches are back
// within seconds. What was opened meanwhile and is not allowed is ended; what is
// allowed goes on.
func TestHoldDetached(t *testing.T) {
	t.Parallel()
	const port = 7010
	strangers := []string{hostPort(world.StrangerV4, port), hostPort(world.StrangerV6, port)}
	n := start(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, func(w *world.World) {
		for _, s := range strangers {
			if _, err := w.AddTCP(netip.MustParseAddrPort(s), ""); err != nil {
				t.Fatal(err)
			}
		}
	})
	n.learn(t, world.API)
	var allowed, denied []*line
	open := func(list *[]*line, addrs ...string) {
		t.Helper()
		for _, a := range addrs {
			l := n.session(t, n.client(t, n.in, probe, "session", a))
			if !l.echo("first") {
				t.Errorf("no echo from %s", a)
			}
			*list = append(*list, l)
		}
	}
	echoes := []string{n.Echo.Addr.String(), n.Echo6.Addr.String()}
	open(&allowed, echoes...)
	n.isOpen(t, "before", n.in, false)
	pid := n.pid(t)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"egd_connect4", "egd_connect6"} {
		testenv.DetachLink(t, filepath.Join(n.nodePins(), "link_"+hook))
	}
	// What the fault opens, while nobody looks.
	n.isOpen(t, "detached", n.in, true)
	open(&denied, strangers...)
	open(&allowed, echoes...)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "both hooks are put back", func() bool { return n.repairs(t, "hook") == 2 })
	n.noWire(t, func() { n.isOpen(t, "put back", n.in, false) }, world.StrangerV4, world.StrangerV6)
	for i, l := range denied {
		eventually(t, soon, "ended: "+strangers[i], func() bool { return !l.echo("again") })
	}
	for _, l := range allowed {
		if !l.echo("again") {
			t.Error("a connection that is allowed was ended")
		}
	}
	n.isReady(t, "put back", true, "")
	if log := n.d.Log(); strings.Count(log, "was put back") != 1 || !strings.Contains(log, "egd_connect4, egd_connect6") {
		t.Error("the log does not say it in one line")
	}
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	n.isOpen(t, "killed", n.in, false)
	n.isOpen(t, "the twin", nil, true)
}

// TestHoldPins: pins that somebody removes are there again within seconds, so that a
// daemon that is killed leaves the policy in force.
func TestHoldPins(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	for when, remove := range map[string]func() error{
		"one pin":       func() error { return os.Remove(filepath.Join(n.nodePins(), "link_egd_skb_egress")) },
		"the directory": func() error { return os.RemoveAll(n.d.PinDir()) },
	} {
		before := n.repairs(t, "pin")
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, when+" is back", func() bool { return n.repairs(t, "pin") > before })
		n.isReady(t, when, true, "")
		if s := n.pins(t); !s.Pins.Lasting {
			t.Errorf("%s: %+v", when, s)
		}
		if err := n.d.Kill(); err != nil {
			t.Fatal(err)
		}
		n.noWire(t, func() { n.isOpen(t, when+", killed", n.in, false) }, world.StrangerV4, world.StrangerV6)
		if err := n.d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	n.isOpen(t, "the twin", nil, true)
	if e := n.egressd(t, "unload", "--pin-dir", n.d.PinDir()); e.code != 0 {
		t.Errorf("unload: %+v", e)
	}
	if _, err := os.Stat(n.d.PinDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unload left pins: %v", err)
	}
	n.isOpen(t, "unloaded", n.in, true)
	_ = n.d.Kill() // it was unloaded, and ends by itself
}

// inMounts runs f in the mount namespace of a process, on a thread that ends then.
func inMounts(t *testing.T, pid int, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/mnt")
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)); err != nil {
				return err
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestHoldMount: a daemon whose bpf filesystem is unmounted, or replaced by one that
// goes with it, is not ready and says what that means, once; it is ready again when
// the node's is back.
func TestHoldMount(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	n.isReady(t, "started", true, "")
	pid, bpffs := n.pid(t), filepath.Dir(n.d.PinDir())
	node, err := unix.OpenTree(unix.AT_FDCWD, bpffs, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(node)
	const line = "something of egressd is missing in the kernel"
	inMounts(t, pid, func() error { return unix.Unmount(bpffs, unix.MNT_DETACH) })
	n.isReady(t, "unmounted", false, "if egressd ends or is killed all traffic is open")
	n.isOpen(t, "unmounted", n.in, false)
	if got := strings.Count(n.d.Log(), line); got != 1 {
		t.Errorf("unmounted: the log says it %d times", got)
	}
	if log := n.d.Log(); !strings.Contains(log, "mount -t bpf") {
		t.Error("unmounted: the log does not say what to do")
	}
	inMounts(t, pid, func() error { return unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700") })
	n.isReady(t, "private", false, "mount namespace")
	inMounts(t, pid, func() error {
		return errors.Join(unix.Unmount(bpffs, unix.MNT_DETACH), unix.MoveMount(node, "", unix.AT_FDCWD, bpffs, unix.MOVE_MOUNT_F_EMPTY_PATH))
	})
	n.isReady(t, "the node's again", true, "")
	if got := strings.Count(n.d.Log(), "everything of egressd is in place in the kernel again"); got != 1 {
		t.Errorf("mounted again: the log says it %d times", got)
	}
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	n.noWire(t, func() { n.isOpen(t, "killed", n.in, false) }, world.StrangerV4, world.StrangerV6)
	n.isOpen(t, "the twin", nil, true)
}

// TestPinsTaken: a second daemon on the pin directory does not start, from another
// network namespace and with another state directory neither, and unload does not
// take the pins from under one that runs.
func TestPinsTaken(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	state := filepath.Join(n.Dir(), "other")
	cg := childOf(t, n.d.Root, "other")
	c := n.Net.Command(t.Context(), nil, egressd, "run", "--config", n.d.ConfigDir(), "--cgroup", cg.Path(), "--state-dir", state,
		"--pin-dir", n.d.PinDir(), "--dns-server", hostPort(world.ResolverV4, 53))
	if e := finish(t, c); e.code != 1 || !strings.Contains(e.stderr, "another egressd has it: "+n.nodePins()) {
		t.Errorf("a second daemon: %+v", e)
	}
	c = n.Net.Command(t.Context(), nil, egressd, "unload", "--state-dir", state, "--pin-dir", n.d.PinDir())
	if e := finish(t, c); e.code != 1 || !strings.Contains(e.stderr, "its policy stays in force") {
		t.Errorf("unload without the daemon's state directory: %+v", e)
	}
	n.isReady(t, "after that", true, "")
	if err := n.d.Kill(); err != nil {
		t.Fatal(err)
	}
	n.noWire(t, func() { n.isOpen(t, "killed", n.in, false) }, world.StrangerV4, world.StrangerV6)
}

// TestForeignProgram: a program of somebody else that may change destinations is
// warned about when it appears, and shown as long as it is there.
func TestForeignProgram(t *testing.T) {
	t.Parallel()
	n := start(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	n.learn(t, world.API)
	const warning = "may change destinations"
	if strings.Contains(n.d.Log(), warning) || strings.Contains(n.egressd(t, "status").stdout, testenv.Rewriter) {
		t.Error("nobody is there")
	}
	v4, v6 := netip.MustParseAddr(world.StrangerV4), netip.MustParseAddr(world.StrangerV6)
	detach := testenv.Rewrite(t, n.d.Root.Path(), v4, v6)
	eventually(t, soon, "all four hooks are warned about", func() bool { return strings.Count(n.d.Log(), warning) == 4 })
	text := n.egressd(t, "status").stdout
	if !strings.Contains(text, "bpftool cgroup detach "+n.d.Root.Path()+" connect4 id ") {
		t.Errorf("status:\n%s", text)
	}
	n.isReady(t, "with it", true, "")
	n.noWire(t, func() {
		for _, a := range []string{n.EchoUDP.Addr.String(), n.EchoUDP6.Addr.String()} {
			n.probe(t, n.in, "udp", a, "hello")
		}
	}, world.StrangerV4, world.StrangerV6)
	detach()
	eventually(t, soon, "it is gone from the status", func() bool {
		return !strings.Contains(n.egressd(t, "status").stdout, testenv.Rewriter)
	})
	if got := strings.Count(n.d.Log(), warning); got != 4 {
		t.Errorf("%d warnings", got)
	}
	for _, a := range []string{n.Echo.Addr.String(), n.Echo6.Addr.String()} {
		if p := n.probe(t, n.in, "dial", a); p.Error != "" {
			t.Errorf("without it: %s: %+v", a, p)
		}
	}
}

// TestForeignAlone: a start that another program forbids names it, and the way to be
// rid of it.
func TestForeignAlone(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{"api.yaml": tcp("api", world.API, "7")}, nil)
	id, detach := testenv.Alone(t, n.d.Root.Path(), "connect4")
	remedy := fmt.Sprintf("bpftool cgroup detach %s connect4 id %d", n.d.Root.Path(), id)
	if err := n.d.Start(t.Context()); err == nil || !strings.Contains(err.Error(), remedy) {
		t.Errorf("%v, want %q in it", err, remedy)
	}
	detach()
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.isOpen(t, "without it", n.in, false)
}
