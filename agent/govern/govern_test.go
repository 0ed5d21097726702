// SPDX-License-Identifier: Apache-2.0

package govern

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

var errStep = errors.New("this step fails")

// node is all that a Governor has to do with: it writes down what it is told, and
// fails where the test says.
type node struct {
	mu    sync.Mutex
	steps []string
	fails map[string]error
	fresh bool // the programs were not where they belong
	// allowAny are the policies of workloads that may reach what these do not know.
	allowAny []policy.PolicyID
	during   func(step string)
	log      strings.Builder
}

func (n *node) step(name string) error {
	n.mu.Lock()
	n.steps = append(n.steps, name)
	err := n.fails[name]
	during := n.during
	n.mu.Unlock()
	if during != nil {
		during(name)
	}
	return err
}

// did are the steps since the last call.
func (n *node) did() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := strings.Join(n.steps, " ")
	n.steps = nil
	return out
}

func (n *node) Bind(s *policy.Snapshot) error {
	if s == nil {
		return n.step("rebind")
	}
	return n.step("bind")
}

func (n *node) shut(name string, shut func(loader.WorkloadState) bool) error {
	for _, id := range n.allowAny {
		if shut(loader.WorkloadState{Policy: id, AllowAny: true}) {
			name += fmt.Sprint(id)
		}
		if shut(loader.WorkloadState{Policy: id}) {
			name += "!" // it has nothing to lose
		}
	}
	return n.step(name)
}

func (n *node) Shut(f func(loader.WorkloadState) bool) error { return n.shut("shut", f) }
func (n *node) SetReady(bool) error                          { return n.step("ready") }
func (n *node) Attach(string) error                          { return n.step("attach") }
func (n *node) End()                                         { _ = n.step("earlier") }
func (n *node) TellFreed()                                   { _ = n.step("freed") }

func (n *node) Hold(attach func(string) error) (bool, error) {
	if n.fresh {
		if err := attach("/c"); err != nil {
			return false, err
		}
	}
	return n.fresh, n.step("hold")
}

// interfaces are those of a node.
type interfaces struct{ *node }

func (i interfaces) Begin() error                                 { return i.step("guard") }
func (i interfaces) Shut(f func(loader.WorkloadState) bool) error { return i.shut("shutwire", f) }
func (i interfaces) UpdatePolicy()                                { _ = i.step("wire") }

func governor(n *node) *Governor {
	return New(Options{
		Workloads: n, Interfaces: interfaces{n}, Capture: n, Earlier: n, Datapath: n, Narrow: &control.Narrow{},
		Log: slog.New(slog.NewTextHandler(&n.log, nil)),
	})
}

func compile(t *testing.T, outbound bool) *policy.Snapshot {
	t.Helper()
	c := policy.Config{}
	if outbound {
		c.Mesh.Outbound = policy.AllowAny
	}
	s, err := policy.Compile(&c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBegin: the programs are attached when the tables say whose processes are whose,
// and what was open before is judged when all is there. A step that fails is the last.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		what  string
		fresh bool
		fails string
		err   error
		want  string
	}{
		{"well", true, "", nil, "bind ready attach hold guard earlier freed"},
		{"they are there", false, "", nil, "bind ready hold guard"},
		{"no cgroup yet", false, "hold", workload.ErrNotThere, "bind ready hold guard"},
		{"not bound", true, "bind", errStep, "bind"},
		{"not ready", true, "ready", errStep, "bind ready"},
		{"not attached", true, "attach", errStep, "bind ready attach"},
		{"not held", false, "hold", errStep, "bind ready hold"},
		{"not guarded", true, "guard", errStep, "bind ready attach hold guard"},
	} {
		n := &node{fresh: c.fresh, fails: map[string]error{c.fails: c.err}}
		err := governor(n).Begin(&policy.Snapshot{})
		if got := n.did(); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
		if stays := c.err == nil || errors.Is(c.err, workload.ErrNotThere); (err == nil) != stays || err != nil && !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// TestOnlyBetween: before Begin and after End nothing of the kernel's is touched, for
// another daemon may be at it, and the core knows all the same which policies are on
// their way.
func TestOnlyBetween(t *testing.T) {
	n := &node{}
	e := governor(n)
	next := compile(t, false)
	c := policy.Diff(nil, next)
	change := func() {
		t.Helper()
		if err := e.Tighten(c); err != nil {
			t.Error(err)
		}
		if !e.o.Narrow.Pending(policy.DefaultPolicy) {
			t.Error("the policy is on its way, and nobody knows")
		}
		if err := e.Loosen(c); err != nil {
			t.Error(err)
		}
		if e.o.Narrow.Pending(policy.DefaultPolicy) {
			t.Error("the policy has come, and nobody knows")
		}
		e.Rebind()
	}
	if change(); n.did() != "" {
		t.Error("it was touched before Begin")
	}
	if err := e.Begin(next); err != nil {
		t.Fatal(err)
	}
	n.did()
	if change(); n.did() != "shut shutwire bind wire rebind hold" {
		t.Error("not all that there is changes over")
	}
	e.End()
	e.Wait()
	if change(); n.did() != "" {
		t.Error("it was touched after End")
	}
}

// TestTighten: only who would keep what the next policy does not allow loses it, behind
// interfaces too, also when the cgroups cannot be told.
func TestTighten(t *testing.T) {
	n := &node{allowAny: []policy.PolicyID{policy.DefaultPolicy}, fails: map[string]error{}}
	e := governor(n)
	if err := e.Begin(&policy.Snapshot{}); err != nil {
		t.Fatal(err)
	}
	n.did()
	closes, opens := policy.Diff(nil, compile(t, false)), policy.Diff(nil, compile(t, true))
	if err := e.Tighten(opens); err != nil || n.did() != "shut shutwire" {
		t.Errorf("the next policy allows it, and it was taken: %v", err)
	}
	one := fmt.Sprint(policy.DefaultPolicy)
	n.fails["shut"+one] = errStep
	if err := e.Tighten(closes); !errors.Is(err, errStep) {
		t.Errorf("the cgroups keep it: %v", err)
	}
	if got, want := n.did(), "shut"+one+" shutwire"+one; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	n.fails["bind"] = errStep
	if err := e.Loosen(closes); !errors.Is(err, errStep) || n.did() != "bind wire" {
		t.Errorf("not bound: %v", err)
	}
}

// TestRebind: a look that fails is told of once for each cause, and the programs are
// looked after all the same.
func TestRebind(t *testing.T) {
	n := &node{fails: map[string]error{}}
	e := governor(n)
	if err := e.Begin(&policy.Snapshot{}); err != nil {
		t.Fatal(err)
	}
	n.did()
	said := 0
	for _, c := range []struct {
		err  error
		says int
	}{
		{syscall.ENOSPC, 1}, {fmt.Errorf("again: %w", syscall.ENOSPC), 0}, {syscall.EIO, 1}, {nil, 0}, {syscall.EIO, 1},
	} {
		n.fails["rebind"] = c.err
		e.Rebind()
		if got := n.did(); got != "rebind hold" {
			t.Errorf("%v: %s", c.err, got)
		}
		if lines := strings.Count(n.log.String(), "\n"); lines != said+c.says {
			t.Errorf("%v: said %d lines: %s", c.err, lines-said, n.log.String())
		}
		said += c.says
	}
	// The captured cgroup came back: what is open there is judged.
	n.fresh = true
	if e.Rebind(); n.did() != "rebind attach hold earlier" {
		t.Error("what the programs had not seen was not judged")
	}
	n.fails["attach"] = errStep
	if e.Rebind(); n.did() != "rebind attach" {
		t.Error("what is open was judged by programs that are not there")
	}
}

// TestWait: when Wait has returned, a look that began before End is over: another
// daemon writes the same tables from then on.
func TestWait(t *testing.T) {
	looking, goOn := make(chan struct{}), make(chan struct{})
	var over atomic.Bool
	n := &node{}
	e := governor(n)
	if err := e.Begin(&policy.Snapshot{}); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	n.during = func(step string) {
		if step == "rebind" {
			close(looking)
			<-goOn
			over.Store(true)
		}
	}
	n.mu.Unlock()
	var all sync.WaitGroup
	all.Go(e.Rebind)
	<-looking
	e.End()
	all.Go(e.Rebind) // it comes too late, whenever it gets its turn
	all.Go(func() {
		if e.Wait(); !over.Load() {
			t.Error("somebody still looks")
		}
	})
	close(goOn)
	all.Wait()
	if got := n.did(); strings.Count(got, "rebind") != 1 {
		t.Errorf("who came after End looked: %s", got)
	}
}
