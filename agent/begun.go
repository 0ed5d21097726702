// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/gate"
	"github.com/egressd/egressd/loader/predecessor"
)

// begun is what a start needs to know to take back what it did when it fails. What
// an earlier run left is not taken back.
type begun struct {
	// state and pins are the files and directories that this start has made, each
	// before what is in it.
	state, pins []string
	// first says that no programs were at work: nothing that this start made is of
	// use to anybody.
	first bool
	// own is the cgroup that egressd was started in, gates are the gates that were
	// there.
	own   string
	gates []netip.Addr
	// done says that the start has succeeded, undone that it was taken back.
	done, undone bool
}

// look notes what is there before anything is made.
func (b *begun) look(pins string) (err error) {
	b.pins = state.Absent(filepath.Dir(pins), pins)
	if b.own, err = cgroup.Own(); err != nil {
		return err
	}
	b.gates, err = gate.Present()
	return err
}

// adopt notes whether an earlier run's programs are at work; the pins are locked.
func (b *begun) adopt(pins string) error {
	before, err := predecessor.Read(pins)
	b.first = err == nil && !before.AtWork()
	return err
}

// saves says whether what was learned is to be kept.
func (b *begun) saves() bool { return b.done || !b.undone }

// leaveOwn goes back to the cgroup that egressd was started in, and removes the one
// that it made for itself.
func (b *begun) leaveOwn() error {
	now, err := cgroup.Own()
	if err != nil || now == b.own || filepath.Base(now) != state.OwnCgroup {
		return err
	}
	if err := cgroup.Enter(b.own); err != nil {
		return err
	}
	_ = os.Remove(now) // rmdir(2) refuses a populated one
	return nil
}

// closed removes the files and directories of a start that was taken back, when
// nothing of it is open but the locks. A directory that somebody else has put
// something in stays.
func (b *begun) closed(o Options) {
	if !b.undone {
		return
	}
	made := append(b.pins, b.state...)
	if len(b.state) > 0 {
		made = append(made, filepath.Join(o.StateDir, state.AdminSocket))
	}
	for _, path := range slices.Backward(made) {
		_ = os.Remove(path)
	}
}
