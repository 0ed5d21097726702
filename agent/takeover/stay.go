// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/flock"
)

const (
	// stayLook is how often a daemon that stays looks who serves, and stayLooks how many
	// looks nobody must: another start may be under way.
	stayLook  = 100 * time.Millisecond
	stayLooks = 2
)

// Stay waits, in a process whose daemon another one has taken over from, until ctx is
// done, or until that one has ended as well and left the kernel part at work. True: the
// process had better serve again, since nobody does. Where all was unloaded nobody is
// to: a daemon that unloads takes away the pins, of which atWork tells, before its lock.
func Stay(ctx context.Context, stateDir string, atWork func() bool) (again bool) {
	path := filepath.Join(stateDir, state.LockFile)
	tick := time.NewTicker(stayLook)
	defer tick.Stop()
	for free := 0; ; {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		_, held, err := flock.Holder(path)
		if err == nil && !held {
			free++
		} else {
			free = 0
		}
		if errors.Is(err, os.ErrNotExist) || free >= stayLooks && !atWork() {
			<-ctx.Done()
			return false
		}
		if free >= stayLooks {
			return true
		}
	}
}
