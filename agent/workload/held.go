// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/policy"
)

// CheckHeld refuses to capture a cgroup that its processes can leave without
// root's help, unless that is wanted.
func CheckHeld(dir string, delegated bool) error {
	err := cgroup.Held(dir)
	loose := (*cgroup.LooseError)(nil)
	if !errors.As(err, &loose) {
		return err
	}
	if delegated {
		return nil
	}
	return fmt.Errorf("%s does not hold its processes: %w, so they can be moved out of it, where no policy is; "+
		"capture %s as a whole, or give it back to root (chown -R root, and no Delegate= with User= in its systemd unit); "+
		"--delegated-cgroup captures it all the same", dir, loose, loose.Cgroup)
}

// WarnDelegated says what it means that a delegated cgroup is captured.
func WarnDelegated(log *slog.Logger, dir string) {
	loose := (*cgroup.LooseError)(nil)
	if errors.As(cgroup.Held(dir), &loose) {
		log.Warn("the captured cgroup is part of a delegated tree; whoever owns that can move processes out of it, and they are free then",
			"cgroup", dir, "delegated", loose.Cgroup, "uid", loose.UID)
	}
}

// laxer says whether less is denied in mode m than in mode than.
func laxer(m, than policy.Mode) bool { return m > than }

// mayBeLax says whether a cgroup can be under less policy than the node: not
// when processes of other cgroups can be moved there without root's help.
// The caller holds the lock of the workloads.
func (w *Binding) mayBeLax(dir, workload string) bool {
	// What counts is above it, and the same for all pods of a class.
	above := filepath.Dir(dir)
	err, ok := w.heldBelow[above]
	if !ok {
		err = w.held(dir)
		w.heldBelow[above] = err
	}
	if err == nil {
		return true
	}
	if !w.told[dir] {
		w.told[dir] = true
		w.log.Warn("a cgroup stays in the mode of the node, because processes can be moved there from others; give the cgroups above it to root",
			"workload", workload, "cgroup", dir, "error", err)
	}
	return false
}
