// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"path/filepath"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/localsocket"
)

// CheckSockets says whether the sockets of a state directory have paths that the kernel
// takes. A daemon could get around its limit, but not the other programs that connect to
// the admin socket (curl, a script), so such a directory is refused.
func CheckSockets(dir string) error {
	for _, name := range []string{handover.SocketName, AdminSocket} { // the longest first
		if err := localsocket.CheckPath(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("%w; choose a shorter --state-dir", err)
		}
	}
	return nil
}
