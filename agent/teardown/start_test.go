// SPDX-License-Identifier: Apache-2.0

package teardown

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/egressd/egressd/agent/state"
)

// started is a start on a machine that the test plays: in a directory of the test's,
// from the cgroup "before", which is left for "egressd" below it.
type started struct {
	*Start
	dir   string
	steps []string
	fails map[string]bool
	now   string // the cgroup
}

var errStep = errors.New("this step fails")

func (s *started) step(name string) error {
	s.steps = append(s.steps, name)
	if s.fails[name] {
		return errStep
	}
	return nil
}

func begin(t *testing.T, atWork bool) *started {
	t.Helper()
	dir := t.TempDir()
	s := &started{dir: dir, fails: map[string]bool{}, now: filepath.Join(dir, "before")}
	o := StartOptions{StateDir: filepath.Join(dir, "state"), PinDir: filepath.Join(dir, "root", "pins"), Gates: true}
	o.Made = state.Made(o.StateDir)
	s.Start = Begin(o)
	s.machine = machine{
		own: func() (string, error) { return s.now, nil },
		enter: func(at string) error {
			if err := s.step("enter"); err != nil {
				return err
			}
			s.now = at
			return nil
		},
		gates: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("169.254.0.1")}, nil },
		removeGates: func(but []netip.Addr) error {
			if !slices.Equal(but, s.gates) {
				t.Errorf("all gates are removed but %v", but)
			}
			return s.step("gates")
		},
		atWork: func(string) (bool, error) { return atWork, nil },
	}
	return s
}

// make does what a start does: it makes files and directories, and its own cgroup.
func (s *started) make(t *testing.T) {
	t.Helper()
	own := filepath.Join(s.now, state.OwnCgroup)
	for _, d := range []string{s.o.StateDir, s.o.PinDir, own} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{state.LockFile, state.AdminSocket} {
		if err := os.WriteFile(filepath.Join(s.o.StateDir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.now = own
}

// left are the paths below the test's directory.
func (s *started) left(t *testing.T) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(s.dir, path); rel != "." {
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, " ")
}

// TestRollBack: a start that failed leaves nothing of its own, whichever step of the
// way back fails too, and nothing of it goes before the programs have.
func TestRollBack(t *testing.T) {
	for _, c := range []struct {
		what   string
		atWork bool
		fails  string
		steps  string
		left   string
	}{
		{"the first of all", false, "", "detach gates enter", "before"},
		{"the programs stay", false, "detach", "detach", "before before/egressd"},
		{"the gates stay", false, "gates", "detach gates enter", "before"},
		{"it stays in its cgroup", false, "enter", "detach gates enter", "before before/egressd"},
		{"over an earlier run", true, "", "detach", "before before/egressd"},
	} {
		s := begin(t, c.atWork)
		if err := errors.Join(s.Look(), s.Adopt()); err != nil {
			t.Fatal(err)
		}
		s.make(t)
		s.fails[c.fails] = true
		err := s.RollBack(func() error { return s.step("detach") })
		if (err != nil) != (c.fails != "") {
			t.Errorf("%s: %v", c.what, err)
		}
		s.Closed()
		if got := strings.Join(s.steps, " "); got != c.steps {
			t.Errorf("%s: %s, want %s", c.what, got, c.steps)
		}
		if got := s.left(t); got != c.left {
			t.Errorf("%s: it left %s, want %s", c.what, got, c.left)
		}
		if s.Saves() {
			t.Errorf("%s: what it learned is kept", c.what)
		}
	}
}

// TestRollBackLeavesWhatWasThere: what an earlier run made, and what somebody else has
// put beside it, stays.
func TestRollBackLeavesWhatWasThere(t *testing.T) {
	s := begin(t, false)
	s.make(t)
	s.now = filepath.Dir(s.now)
	s.Start = Begin(StartOptions{StateDir: s.o.StateDir, PinDir: s.o.PinDir, Made: state.Made(s.o.StateDir)})
	s.Start.machine = begin(t, false).machine
	if err := errors.Join(s.Look(), s.Adopt(), s.RollBack(nil)); err != nil {
		t.Fatal(err)
	}
	before := s.left(t)
	if s.Closed(); s.left(t) != before {
		t.Errorf("left %s of %s", s.left(t), before)
	}
	s = begin(t, false)
	if err := s.Look(); err != nil {
		t.Fatal(err)
	}
	s.make(t)
	if err := os.WriteFile(filepath.Join(s.o.StateDir, "note"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.RollBack(nil); err != nil { // it failed before it knew who was at work
		t.Error(err)
	}
	s.Closed()
	if got := s.left(t); got != "before before/egressd state state/note" || len(s.steps) > 0 {
		t.Errorf("left %s, did %s", got, s.steps)
	}
}

// TestSucceeded: a start that has succeeded leaves all there is.
func TestSucceeded(t *testing.T) {
	s := begin(t, false)
	if err := errors.Join(s.Look(), s.Adopt()); err != nil {
		t.Fatal(err)
	}
	s.make(t)
	if s.Succeeded() || !s.Saves() {
		t.Error("it has not succeeded yet, and has not failed")
	}
	s.Succeed()
	before := s.left(t)
	if s.Closed(); s.left(t) != before || !s.Succeeded() || !s.Saves() {
		t.Errorf("left %s of %s", s.left(t), before)
	}
}

// TestLook: a start that does not know where it is cannot be taken back, so it ends.
func TestLook(t *testing.T) {
	s := begin(t, false)
	s.machine.gates = func() ([]netip.Addr, error) { return nil, errStep }
	if err := s.Look(); !errors.Is(err, errStep) {
		t.Errorf("the gates are not known: %v", err)
	}
	s.machine.own = func() (string, error) { return "", errStep }
	if err := s.Look(); !errors.Is(err, errStep) {
		t.Errorf("the cgroup is not known: %v", err)
	}
	s.machine.atWork = func(string) (bool, error) { return false, errStep }
	if err := s.Adopt(); !errors.Is(err, errStep) || s.first {
		t.Errorf("who is at work is not known: %v, the first: %t", err, s.first)
	}
}
