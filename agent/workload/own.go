// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/loader/predecessor"
)

// ExemptOwn makes egressd free of the policy that it enforces, and of the one
// that an earlier run has left in force, before it binds, asks or dials
// anything. It returns the id of egressd's cgroup when that lies below one of
// the captured ones, else 0. In a pod that is its container's cgroup, and nothing is
// written to the cgroup tree. beside is the cgroup of an egressd that serves until
// this one does, 0: none.
func ExemptOwn(c *Capture, pins string, beside uint64) (uint64, error) {
	own, err := cgroup.Own()
	if err != nil {
		return 0, fmt.Errorf("find egressd's own cgroup: %w", err)
	}
	before, err := predecessor.Read(pins)
	if err != nil {
		return 0, err
	}
	place, err := oneAround(own, c.Named())
	if err != nil {
		return 0, err
	}
	inside := place != ""
	if !inside {
		// The earlier run may have captured another one.
		if place, err = capturedBefore(own, before); err != nil || place == "" {
			return 0, err
		}
	}
	id, err := c.enterOwn(place, own)
	if err != nil {
		return 0, err
	}
	if err := before.Exempt(id, Own, beside); err != nil || !inside {
		return 0, err
	}
	return id, nil
}

// oneAround finds the one of the directories that own is in; "": none.
func oneAround(own string, dirs []string) (string, error) {
	for _, dir := range dirs {
		dir, err := filepath.EvalSymlinks(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		if cgroup.Contains(dir, own) {
			return dir, nil
		}
	}
	return "", nil
}

// capturedBefore finds the workload of an earlier run that own is in; "": none,
// or an exempt one.
func capturedBefore(own string, before predecessor.Pinned) (string, error) {
	if !before.AtWork() {
		return "", nil
	}
	above, err := cgroup.Upwards(own)
	if err != nil {
		return "", err
	}
	for _, dir := range above {
		id, err := cgroup.ID(dir)
		if err != nil {
			return "", err
		}
		switch captured, known := before.Workload(id); {
		case captured:
			return dir, nil
		case known:
			return "", nil
		}
	}
	return "", nil
}

// isContainer says whether a cgroup is that of a pod's container, where pods are captured.
func (c *Capture) isContainer(dir string) bool {
	p, ok := c.podOf(dir)
	return ok && p.Container != ""
}

// podOf finds the pod that a cgroup is of, where pods are captured.
func (c *Capture) podOf(dir string) (podcgroup.Pod, bool) {
	if c.pods == nil {
		return podcgroup.Pod{}, false
	}
	rel, err := filepath.Rel(c.pods.tree, dir)
	if err != nil {
		return podcgroup.Pod{}, false
	}
	return podcgroup.Of(rel)
}

// OwnPod is the UID of the pod that egressd itself is in; "": none that is known.
func (c *Capture) OwnPod() string {
	own, err := cgroup.Own()
	if err != nil {
		return ""
	}
	p, _ := c.podOf(own)
	return p.UID
}

// enterOwn makes sure that egressd, which is in the cgroup own below the
// captured one, is in a cgroup that nobody else is in, and returns its id. The
// exemption is by this cgroup alone: marks and user ids can be forged.
func (c *Capture) enterOwn(captured, own string) (uint64, error) {
	if c.isContainer(own) && cgroup.Secure(own) == nil {
		// What else is in there was started in egressd's own container, from its image.
		return cgroup.ID(own)
	}
	procs, err := cgroup.AllProcs(own)
	if err != nil {
		return 0, err
	}
	// A service manager that gave egressd a cgroup of its own keeps it there.
	// One that others are in, or may enter, would exempt them as well.
	alone := slices.Equal(procs, []int{os.Getpid()}) && cgroup.Secure(own) == nil
	if !alone || own == captured {
		own = filepath.Join(captured, state.OwnCgroup)
		if err := cgroup.Enter(own); err != nil {
			return 0, err
		}
	}
	if err := cgroup.Secure(own); err != nil {
		return 0, fmt.Errorf("egressd's own cgroup is not under policy, so nobody else may enter it: %w; remove it (rmdir %s) and start again", err, own)
	}
	return cgroup.ID(own)
}
