// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/egressd/egressd/internal/cgroup"
)

// ownCgroup is the name of the cgroup that a daemon makes for itself below
// the captured one.
const ownCgroup = "egressd"

// exemptOwnCgroup makes sure that egressd itself is in a cgroup that nobody
// else is in, when it runs below a captured one, and returns its id; 0 when
// egressd is not captured at all. The exemption is by this cgroup alone: marks
// and user ids can be forged.
func exemptOwnCgroup(captured string) (uint64, error) {
	own, err := cgroup.Own()
	if err != nil {
		return 0, fmt.Errorf("find egressd's own cgroup: %w", err)
	}
	if !cgroup.Contains(captured, own) {
		return 0, nil
	}
	procs, err := cgroup.Procs(own)
	if err != nil {
		return 0, err
	}
	// A service manager that gave egressd a cgroup of its own keeps it there.
	// One that others may enter would exempt them as well.
	alone := slices.Equal(procs, []string{strconv.Itoa(os.Getpid())}) && cgroup.Secure(own) == nil
	if !alone || own == captured {
		own = filepath.Join(captured, ownCgroup)
		if err := cgroup.Enter(own); err != nil {
			return 0, err
		}
	}
	if err := cgroup.Secure(own); err != nil {
		return 0, fmt.Errorf("egressd's own cgroup is not under policy, so nobody else may enter it: %w; remove it (rmdir %s) and start again", err, own)
	}
	return cgroup.ID(own)
}

// RemoveOwnCgroup removes the cgroup that an ended daemon made for itself
// below the captured one. One that is in use, or not there, is left alone.
func RemoveOwnCgroup(captured string) {
	if captured != "" {
		_ = os.Remove(filepath.Join(captured, ownCgroup)) // rmdir(2) refuses a populated one
	}
}
