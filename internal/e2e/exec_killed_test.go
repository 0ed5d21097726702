// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// again dials two strangers until one answers or the file is there.
func again(stop string) string {
	return "echo ready; until [ -e " + stop + " ]; do for a in " + hostPort(world.StrangerV4, 80) + " " + hostPort(world.StrangerV6, 80) +
		"; do " + probe + " dial $a; done; done >/dev/null"
}

// begin starts an exec and waits until its command runs.
func begin(t *testing.T, c *world.Cmd) {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

// execs are the cgroups of exec below the one that the tests are in.
func execs(t *testing.T, b *bench) []string {
	t.Helper()
	files, _ := filepath.Glob(filepath.Join(b.state, "exec-*", "cgroup")) // the pattern is good
	var out []string
	for _, f := range files {
		path, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(path))
	}
	return out
}

// TestExecKilled: the command of a killed exec stays locked in whoever comes
// after it, with the same pid as well, until its processes have ended; then
// nothing is left of it.
func TestExecKilled(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "unshare")
	b := newBench(t, hosts("google", world.GoogleAPIs))
	stop := filepath.Join(b.Dir(), "stop")
	// Not beside the cgroups of the tests, which are swept by others.
	place := testenv.Cgroup(t)
	// Each is process 1 of a pid namespace of its own.
	numbered := func(command ...string) *world.Cmd {
		return b.client(t, place, "unshare", append([]string{"--pid", "--fork", "--kill-child", egressd}, b.line(nil, command...)...)...)
	}
	locked := b.client(t, place, egressd, b.line(nil, shell(again(stop))...)...)
	begin(t, locked)
	left := execs(t, b)
	if err := locked.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = locked.Wait() // it was killed
	if len(left) != 1 {
		t.Fatalf("cgroups %v, want one", left)
	}
	b.noWire(t, func() {
		// A living one, another one with its pid, and one that comes and goes.
		first := numbered(shell(again(stop))...)
		begin(t, first)
		for range 2 {
			if e := finish(t, numbered(shell("exit 3")...)); e.code != 3 {
				t.Errorf("another exec with the same pid: %+v", e)
			}
			if e := b.run(t, place, egressd, b.line(nil, "true")...); e.code != 0 {
				t.Errorf("another exec: %+v", e)
			}
		}
		if n := len(execs(t, b)); n != 2 {
			t.Errorf("%d execs have a state directory, want 2: %v; the first was %v", n, execs(t, b), left)
		}
		// Both commands dial all the time; so long that it would be seen.
		for range 20 {
			if p := b.probe(t, nil, "dial", b.Echo.Addr.String()); p.Error != "" {
				t.Fatalf("the twin: %+v", p)
			}
		}
		if err := os.WriteFile(stop, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := first.Wait(); err != nil {
			t.Error(err)
		}
	}, world.StrangerV4, world.StrangerV6)
	eventually(t, soon, "the end of the locked-in command", func() bool {
		procs, err := os.ReadFile(filepath.Join(left[0], "cgroup.procs"))
		return err != nil || len(procs) == 0
	})
	if e := b.run(t, place, egressd, b.line(nil, "true")...); e.code != 0 {
		t.Errorf("%+v", e)
	}
	if _, err := os.Stat(left[0]); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", left[0], err)
	}
}

// TestExecKilledInSetup: empty cgroups of those that were killed before they
// had a state directory go with the next exec; others stay.
func TestExecKilledInSetup(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	place := testenv.Cgroup(t)
	make := func(name string) string {
		path := filepath.Join(place.Path(), name)
		if err := os.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dead, other := make("egd-4194304-exec-123"), make("egd-4194304-life-123")
	full := make("egd-4194303-exec-456")
	sleeper := exec.Command("sleep", "600")
	dir, err := os.Open(full)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	sleeper.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() }()
	args := b.command(t, nil, "true").Args
	held := b.client(t, place, args[0], append(args[1:len(args)-2:len(args)-2], "--", "sh", "-c", "echo ready; read x")...)
	in, err := held.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	begin(t, held)
	living := execs(t, b)
	if e := b.run(t, place, args[0], args[1:]...); e.code != 0 {
		t.Errorf("%+v", e)
	}
	for path, want := range map[string]bool{dead: false, other: true, full: true, living[0]: true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", path, err == nil, want)
		}
	}
	in.Close()
	_ = held.Wait() // its read failed
	if !strings.HasPrefix(living[0], place.Path()) {
		t.Errorf("exec made %s, not below %s", living[0], place.Path())
	}
}

// TestExecPinsSwept: pins of a killed exec whose state directory is gone stay while
// its command runs, and go with the next exec or start when it has ended. What a
// living one has stays.
func TestExecPinsSwept(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	place := testenv.Cgroup(t)
	stop := filepath.Join(b.Dir(), "stop")
	locked := b.client(t, place, egressd, b.line(nil, shell(again(stop))...)...)
	begin(t, locked)
	left := execs(t, b)
	states, _ := filepath.Glob(filepath.Join(b.state, "exec-*")) // the pattern is good
	if err := locked.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = locked.Wait() // it was killed
	if len(left) != 1 || len(states) != 1 {
		t.Fatalf("cgroups %v, state %v, want one", left, states)
	}
	pins := filepath.Join(b.pins, filepath.Base(states[0]))
	if err := os.RemoveAll(states[0]); err != nil {
		t.Fatal(err)
	}
	next := func(want bool) {
		t.Helper()
		if e := b.run(t, place, egressd, b.line(nil, "true")...); e.code != 0 {
			t.Errorf("the next exec: %+v", e)
		}
		if _, err := os.Stat(pins); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", pins, err == nil, want)
		}
	}
	b.noWire(t, func() { next(true) }, world.StrangerV4, world.StrangerV6)
	living := b.client(t, place, egressd, b.line(nil, shell("echo ready; until [ -e "+stop+"2 ]; do sleep 0.1; done")...)...)
	begin(t, living)
	if err := os.WriteFile(stop, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "the end of the locked-in command", func() bool {
		procs, err := os.ReadFile(filepath.Join(left[0], "cgroup.procs"))
		return err != nil || len(procs) == 0
	})
	next(false)
	if dirs, _ := filepath.Glob(filepath.Join(b.pins, "exec-*")); len(dirs) != 1 {
		t.Errorf("pins %v, want those of the living exec", dirs)
	}
	if _, err := os.Stat(left[0]); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", left[0], err)
	}
	if err := os.WriteFile(stop+"2", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := living.Wait(); err != nil {
		t.Error(err)
	}
}

// TestStartSweeps: the start of a daemon removes the empty cgroups and the state of
// execs that were killed, wherever they were made, and nobody else's.
func TestStartSweeps(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	deep := childOf(t, testenv.Cgroup(t), "deep")
	other := childOf(t, deep, "egd-4194304-other-1")
	dead := filepath.Join(deep.Path(), "egd-4194304-exec-1")
	state := filepath.Join(n.d.StateDir(), "exec-DEAD")
	for _, dir := range []string{dead, state} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	living, err := cgroup.NewIn(deep.Path(), "exec")
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{dead: false, state: false, living.Path(): true, other.Path(): true} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s is there: %t, want %t", path, err == nil, want)
		}
	}
}
