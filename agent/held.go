// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/policy"
)

// checkHeld refuses to capture a cgroup that its processes can leave without
// root's help, unless that is wanted.
func (o *Options) checkHeld(dir string) error {
	err := cgroup.Held(dir)
	loose := (*cgroup.LooseError)(nil)
	if !errors.As(err, &loose) {
		return err
	}
	if o.Delegated {
		return nil
	}
	return fmt.Errorf("%s does not hold its processes: %w, so they can be moved out of it, where no policy is; "+
		"capture %s as a whole, or give it back to root (chown -R root, and no Delegate= with User= in its systemd unit); "+
		"--delegated-cgroup captures it all the same", dir, loose, loose.Cgroup)
}

// warnDelegated says what it means that a delegated cgroup is captured.
func (o *Options) warnDelegated(dir string) {
	loose := (*cgroup.LooseError)(nil)
	if errors.As(cgroup.Held(dir), &loose) {
		o.Log.Warn("the captured cgroup is part of a delegated tree; whoever owns that can move processes out of it, and they are free then",
			"cgroup", dir, "delegated", loose.Cgroup, "uid", loose.UID)
	}
}

// laxer says whether less is denied in mode m than in mode than.
func laxer(m, than policy.Mode) bool { return m > than }

// mayBeLax says whether a cgroup can be under less policy than the node: not
// when processes of other cgroups can be moved there without root's help.
// The caller holds the lock of the workloads.
func (a *Agent) mayBeLax(dir, workload string) bool {
	err := cgroup.Held(dir)
	if err == nil {
		return true
	}
	if w := a.workloads; !w.told[dir] {
		w.told[dir] = true
		a.log.Warn("a cgroup stays in the mode of the node, because processes can be moved there from others; give the cgroups above it to root",
			"workload", workload, "cgroup", dir, "error", err)
	}
	return false
}
