// SPDX-License-Identifier: Apache-2.0

// Package teardown removes what an egressd has outside of its process: programs and
// tables in the kernel, addresses of the node, state, and cgroups. "egressd unload",
// a daemon that was told to unload, a start that failed, and exec do it in one order.
package teardown

import (
	"errors"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/gate"
)

// Teardown has the steps of one egressd's end. A nil step has nothing to do.
type Teardown struct {
	// Detach removes programs, links and tables: when it returns traffic is open.
	Detach func() error
	// Ended returns when whoever used the rest does not any more.
	Ended func() error
	// Gates removes the addresses that programs led to, State what is kept for a
	// next start, and Cgroups those that egressd made for itself.
	Gates, State, Cgroups func() error
}

// Run takes the steps. Where programs stay, or somebody uses what they lead to,
// nothing else is removed: they lead to the gates, and who comes next finds them by
// the state. The errors of the other steps are joined.
func (t Teardown) Run() error {
	for _, step := range []func() error{t.Detach, t.Ended} {
		if step == nil {
			continue
		}
		if err := step(); err != nil {
			return err
		}
	}
	var errs []error
	for _, step := range []func() error{t.Gates, t.State, t.Cgroups} {
		if step != nil {
			errs = append(errs, step())
		}
	}
	return errors.Join(errs...)
}

// OfDaemon is the end of a daemon that captured some cgroups, or, where that is not
// known, the whole node. How it is detached, and when it has ended, is the caller's
// to say.
func OfDaemon(stateDir string, captured []string) Teardown {
	return Teardown{
		Gates: gate.Remove,
		State: func() error { return state.Remove(stateDir) },
		Cgroups: func() error {
			if len(captured) == 0 {
				root, err := cgroup.Root()
				if err != nil {
					return nil // there is nothing to remove
				}
				captured = []string{root}
			}
			for _, dir := range captured {
				removeOwnCgroup(dir)
			}
			return nil
		},
	}
}
