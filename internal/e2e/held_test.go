// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

// nobody is a user without privileges.
const nobody = 65534

// delegate gives a cgroup to a user, as systemd's Delegate= and User= do.
func delegate(t *testing.T, dir string) {
	t.Helper()
	for _, file := range []string{".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
		if err := os.Chown(filepath.Join(dir, file), nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
}

// childOf makes a cgroup that goes with the test.
func childOf(t *testing.T, parent *world.Cgroup, name string) *world.Cgroup {
	t.Helper()
	cg, err := parent.Child(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cg.Close() }) // also when the parent goes first
	return cg
}

// leave moves the shell to a cgroup and says whether that worked.
func leave(to string) string {
	return "echo $$ > " + filepath.Join(to, "cgroup.procs") + " 2>/dev/null && echo left || echo held"
}

// TestExecInDelegatedCgroup: who owns the cgroups that exec is started in, as
// the user of a desktop's terminal does, cannot move its command out of exec's.
func TestExecInDelegatedCgroup(t *testing.T) {
	t.Parallel()
	b := newBench(t, hosts("google", world.GoogleAPIs))
	session := testenv.Cgroup(t)
	terminal := childOf(t, session, "terminal.scope")
	delegate(t, session.Path())
	delegate(t, terminal.Path())
	script := leave(terminal.Path()) + "; " + leave(session.Path()) + "; " + probe + " dial " + hostPort(world.StrangerV4, 80) + "; " + probe + " dial " + hostPort(world.StrangerV6, 80)
	in := func(cg *world.Cgroup, flags ...string) ended {
		args := append([]string{"exec", "--config", b.config, "--state-dir", b.state, "--pin-dir", b.pins}, flags...)
		return b.run(t, cg, egressd, append(append(args, "--"), shell(script)...)...)
	}
	b.noWire(t, func() {
		if e := in(terminal, "--user", "nobody"); strings.Count(e.stdout, "held") != 2 || strings.Contains(e.stdout, "left") || strings.Count(e.stdout, "refused") != 2 {
			t.Errorf("%+v", e)
		}
	}, world.StrangerV4, world.StrangerV6)
	// The twin: below the terminal's cgroup the same command leaves it.
	c := b.client(t, childOf(t, terminal, "exec"), "sh", "-c", script)
	c.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	c.SysProcAttr.Unshareflags = 0 // what Bind mounts takes root
	c.Path, c.Args = "/bin/sh", shell(script)
	if e := finish(t, c); strings.Count(e.stdout, "left") != 2 || strings.Contains(e.stdout, "refused") {
		t.Errorf("the twin: %+v", e)
	}
}

// TestExecInDelegatedWorkload: exec stays inside the policy that it is under,
// and if nothing there is root's it does not start.
func TestExecInDelegatedWorkload(t *testing.T) {
	t.Parallel()
	n := start(t, seed(t, "googleapis.yaml"), nil)
	policy := filepath.Join(n.Dir(), "inner.yaml")
	if err := os.WriteFile(policy, []byte(hosts("both", world.GoogleAPIs, world.API)), 0o644); err != nil {
		t.Fatal(err)
	}
	terminal := childOf(t, n.in, "terminal.scope")
	delegate(t, n.in.Path())
	delegate(t, terminal.Path())
	run := func(command ...string) ended {
		return n.run(t, terminal, egressd, append([]string{"exec", "--config", policy, "--user", "nobody", "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--"}, command...)...)
	}
	if e := run(shell(leave(terminal.Path()) + "; " + leave(n.in.Path()))...); strings.Count(e.stdout, "held") != 2 {
		t.Errorf("%+v", e)
	}
	if e := run(probe, "get", "https://"+world.GoogleAPIs, n.CAFile()); !strings.Contains(e.stdout, `"status":200`) {
		t.Errorf("what both policies allow: %+v", e)
	}
	n.noWire(t, func() {
		if e := run(probe, "get", "https://"+world.API, n.CAFile()); strings.Contains(e.stdout, `"status"`) {
			t.Errorf("what the outer policy denies: %+v", e)
		}
	}, n.API.V4.String(), n.API.V6.String())
	delegate(t, n.d.Root.Path())
	if e := run("true"); e.code != 125 || !strings.Contains(e.stderr, "uid 65534 owns "+n.d.Root.Path()) {
		t.Errorf("nothing inside the policy is root's: %+v", e)
	}
}

// TestRunDelegatedCgroup: a part of a delegated tree is not captured, unless
// somebody insists; all of it is.
func TestRunDelegatedCgroup(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	manager := testenv.Cgroup(t)
	service := childOf(t, manager, "app.service")
	delegate(t, manager.Path())
	run := func(args ...string) ended {
		return n.run(t, nil, egressd, append([]string{"run", "--config", n.d.ConfigDir(), "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--dns-server", world.ResolverV4}, args...)...)
	}
	e := run("--cgroup", service.Path())
	for _, want := range []string{"does not hold", "uid 65534 owns " + manager.Path(), "capture " + manager.Path() + " as a whole", "Delegate=", "--delegated-cgroup"} {
		if e.code != 3 || !strings.Contains(e.stderr, want) {
			t.Errorf("no %q in %+v", want, e)
		}
	}
	testenv.NoPins(t, n.d.PinDir())
}

// TestInsistOnDelegatedCgroup is the other two ways of TestRunDelegatedCgroup.
func TestInsistOnDelegatedCgroup(t *testing.T) {
	t.Parallel()
	manager := testenv.Cgroup(t)
	service := childOf(t, manager, "app.service")
	delegate(t, manager.Path())
	for _, args := range [][]string{{"--cgroup", manager.Path()}, {"--cgroup", service.Path(), "--delegated-cgroup"}} {
		t.Run(strings.Join(args[2:], " "), func(t *testing.T) { insist(t, service, args) })
	}
}

func insist(t *testing.T, service *world.Cgroup, args []string) {
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	n.d.Capture = args
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := n.probe(t, service, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("%v: %+v", args, p)
	}
	if warned := strings.Contains(n.d.Log(), "delegated tree"); warned != (len(args) > 2) {
		t.Errorf("%v: warned: %t", args, warned)
	}
}

// TestLaxWorkloadInDelegatedCgroup: a cgroup that a user can move processes
// into does not free them.
func TestLaxWorkloadInDelegatedCgroup(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	own, delegated := childOf(t, n.d.Root, "own.slice"), childOf(t, n.d.Root, "user.slice")
	delegate(t, delegated.Path())
	good, bad := childOf(t, own, "free.scope"), childOf(t, delegated, "free.scope")
	n.write(t, "workloads.yaml", n.workload(t, "good", "test", "own.slice/free.scope", ", mode: 'off'")+
		n.workload(t, "bad", "test", "user.slice/free.scope", ", mode: 'off'"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p := n.probe(t, bad, "dial", hostPort(world.StrangerV4, 443)); p.Errno != syscall.ECONNREFUSED {
		t.Errorf("in a delegated cgroup: %+v", p)
	}
	if p := n.probe(t, good, "dial", hostPort(world.StrangerV4, 443)); p.Error != "" {
		t.Errorf("the twin, where only root moves processes: %+v", p)
	}
	if !strings.Contains(n.d.Log(), "keeps the node's mode") {
		t.Error("nothing was said")
	}
}

// TestOwnCgroupIsNobodyElses: egressd does not exempt itself by a cgroup that
// somebody else can enter.
func TestOwnCgroupIsNobodyElses(t *testing.T) {
	t.Parallel()
	n := prepare(t, seed(t, "googleapis.yaml"), nil)
	trap := childOf(t, n.in, "egressd")
	delegate(t, trap.Path())
	e := n.run(t, n.in, egressd, "run", "--config", n.d.ConfigDir(), "--cgroup", n.in.Path(), "--state-dir", n.d.StateDir(), "--pin-dir", n.d.PinDir(), "--dns-server", world.ResolverV4)
	if e.code != 3 || !strings.Contains(e.stderr, "uid 65534 owns "+trap.Path()) {
		t.Errorf("%+v", e)
	}
	if _, err := os.Stat(n.d.StateDir()); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
