// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/egressd/egressd/agent"
)

// checkReadyHere is an error unless the daemon is ready and in the mount namespace of
// this process: a container has one of its own, and the daemon that answers may be that
// of the container before.
func checkReadyHere(e env, s agent.Status) error {
	there, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", s.PID))
	if err != nil {
		return fmt.Errorf("see whose the daemon is (pid %d): %w", s.PID, err)
	}
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	switch {
	case here != there:
		return fmt.Errorf("the daemon that serves (pid %d) is another container's; this one has not taken over yet", s.PID)
	case !s.Ready:
		return fmt.Errorf("the daemon is not ready; \"egressd status\" says why")
	}
	return nil
}
