// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// fake is a gateway that decides nothing. It notes what it sees when it is to free
// what is in the cgroup.
type fake struct {
	Place
	t                      *testing.T
	runs, unloads          error
	did                    []string
	inside                 int  // processes when it unloads
	stateThere, stateClose bool // when it unloads, and closes
}

func (f *fake) Run(ctx context.Context, ready func()) error {
	f.did = append(f.did, "run")
	if f.runs != nil {
		return f.runs
	}
	ready()
	<-ctx.Done()
	return nil
}

func (f *fake) Unload() error {
	f.did = append(f.did, "unload")
	pids, err := cgroup.AllProcs(f.Cgroup)
	if err != nil {
		f.t.Error(err)
	}
	f.inside, f.stateThere = len(pids), there(f.StateDir)
	return f.unloads
}

func (f *fake) Close() error {
	f.did = append(f.did, "close")
	f.stateClose = there(f.StateDir)
	return f.Lock.Close()
}

func there(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestCommandEndsBeforeItsPolicy: the command runs when its policy is in force, and
// that goes when the command and what it left behind have ended; with it goes all
// else. A gateway that cannot be had, or fails, has no command.
func TestCommandEndsBeforeItsPolicy(t *testing.T) {
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	failed := errors.New("failed")
	for _, c := range []struct {
		name                string
		open, runs, unloads error
		command             string
		code                int
		ran                 bool
		did                 string
		stateStays          bool
	}{
		{"well", nil, nil, nil, "sleep 600 >/dev/null 2>&1 & echo ran; exit 7", 7, true, "run unload close", false},
		{"no gateway", failed, nil, nil, "echo ran", 0, false, "", false},
		{"a gateway that fails", nil, failed, nil, "echo ran", 0, false, "run unload close", false},
		{"programs that stay", nil, nil, failed, "echo ran", 0, true, "run unload", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var out bytes.Buffer
			f := &fake{t: t, runs: c.runs, unloads: c.unloads}
			code, err := Run(t.Context(), Options{
				StateRoot: filepath.Join(dir, "state"), PinRoot: filepath.Join(dir, "pins"),
				Command: []string{"/bin/sh", "-c", c.command}, Stdout: &out,
			}, func(p Place) (Gateway, error) {
				f.Place = p
				if c.open != nil {
					return nil, errors.Join(c.open, p.Lock.Close())
				}
				return f, nil
			})
			if bad := errors.Join(c.open, c.runs, c.unloads) != nil; errors.Is(err, failed) != bad || !bad && err != nil {
				t.Errorf("error %v", err)
			}
			if code != c.code || strings.Contains(out.String(), "ran") != c.ran || strings.Join(f.did, " ") != c.did {
				t.Errorf("code %d, out %q, %v", code, out.String(), f.did)
			}
			if c.ran && (f.inside != 0 || !f.stateThere) {
				t.Errorf("when it is free there are %d processes in it; state is there: %t", f.inside, f.stateThere)
			}
			if there(f.StateDir) != c.stateStays {
				t.Errorf("state stays: %t", !c.stateStays)
			}
			if c.stateStays { // for the next one, which finds what is left by it
				f.Lock.Close()
				if err := cgroup.Remove(f.Cgroup); err != nil {
					t.Error(err)
				}
				sweep(filepath.Dir(f.StateDir), filepath.Dir(f.PinDir))
			}
			if there(f.StateDir) || there(f.Cgroup) {
				t.Error("something is left behind")
			}
		})
	}
}
