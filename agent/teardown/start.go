// SPDX-License-Identifier: Apache-2.0

package teardown

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

// Start is what a start needs to know to take back what it did when it fails. What
// an earlier run left is not taken back.
type Start struct {
	o       StartOptions
	machine machine
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
	// succeeded says that the start has, undone that it was taken back.
	succeeded, undone bool
}

// StartOptions say what starts where.
type StartOptions struct {
	StateDir, PinDir string
	// Made are the parts of the state directory that this start has made.
	Made []string
	// Gates says that the start adds addresses to the node.
	Gates bool
}

// machine is what of the machine a start changes.
type machine struct {
	own         func() (string, error) // the calling process's cgroup
	enter       func(cgroup string) error
	gates       func() ([]netip.Addr, error)
	removeGates func(but []netip.Addr) error
	atWork      func(pins string) (bool, error)
}

// Begin begins a start of which nothing is known yet.
func Begin(o StartOptions) *Start {
	return &Start{o: o, state: o.Made, machine: machine{
		own: cgroup.Own, enter: cgroup.Enter, gates: gate.Present, removeGates: gate.RemoveBut,
		atWork: func(pins string) (bool, error) {
			before, err := predecessor.Read(pins)
			return err == nil && before.AtWork(), err
		},
	}}
}

// Look notes what is there before anything is made.
func (s *Start) Look() (err error) {
	s.pins = state.Absent(filepath.Dir(s.o.PinDir), s.o.PinDir)
	if s.own, err = s.machine.own(); err != nil {
		return err
	}
	s.gates, err = s.machine.gates()
	return err
}

// Adopt notes whether an earlier run's programs are at work; the pins are locked.
func (s *Start) Adopt() error {
	atWork, err := s.machine.atWork(s.o.PinDir)
	s.first = err == nil && !atWork
	return err
}

// Succeed says that the start has succeeded, and Succeeded whether it has.
func (s *Start) Succeed()        { s.succeeded = true }
func (s *Start) Succeeded() bool { return s.succeeded }

// Saves says whether what was learned is to be kept.
func (s *Start) Saves() bool { return s.succeeded || !s.undone }

// RollBack takes back what the start did, which failed. detach takes back what it did
// in the kernel; nil: it had not come to that.
func (s *Start) RollBack(detach func() error) error {
	s.undone = true
	t := Teardown{Detach: detach}
	if s.first && s.own != "" {
		t.Cgroups = s.leaveOwn
		if s.o.Gates {
			t.Gates = func() error { return s.machine.removeGates(s.gates) }
		}
	}
	return t.Run()
}

// leaveOwn goes back to the cgroup that egressd was started in, and removes the one
// that it made for itself.
func (s *Start) leaveOwn() error {
	now, err := s.machine.own()
	if err != nil || now == s.own || filepath.Base(now) != state.OwnCgroup {
		return err
	}
	if err := s.machine.enter(s.own); err != nil {
		return err
	}
	_ = os.Remove(now) // rmdir(2) refuses a populated one
	return nil
}

// Closed removes the files and directories of a start that was taken back, when
// nothing of it is open but the locks. A directory that somebody else has put
// something in stays.
func (s *Start) Closed() {
	if !s.undone {
		return
	}
	made := slices.Concat(s.pins, s.state)
	if len(s.state) > 0 {
		made = append(made, filepath.Join(s.o.StateDir, state.AdminSocket))
	}
	for _, path := range slices.Backward(made) {
		_ = os.Remove(path)
	}
}
