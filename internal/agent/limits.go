// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/forward"
)

// Descriptors that forwarding leaves alone, for the admin socket, DNS, status,
// policy files and the kernel's tables.
const (
	reservedDescriptors = 1024
	// maxDescriptors bounds what is handed out where the limit is none.
	maxDescriptors = 512 << 10
	minMemory      = 256 << 20
)

// forwardLimits is what the forwarding cores may take together: of descriptors
// all but a reserve, of memory half.
func forwardLimits(log *slog.Logger) *forward.Limits {
	files, memory := descriptorLimit(log), memoryLimit()
	return &forward.Limits{
		Descriptors: forward.NewBudget(forwardDescriptors(files)),
		Memory:      forward.NewBudget(max(memory/2, minMemory)),
	}
}

// forwardDescriptors is how much of a limit of files is for forwarding: at
// least three quarters.
func forwardDescriptors(files uint64) int64 {
	files = min(files, maxDescriptors+reservedDescriptors)
	return int64(files - min(reservedDescriptors, files/4))
}

// descriptorLimit raises the soft limit to the hard one, and returns it.
func descriptorLimit(log *slog.Logger) uint64 {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		log.Warn("the limit of descriptors is not known; 1024 are taken to be there", "error", err)
		return 1024
	}
	if l.Cur < l.Max {
		raised := unix.Rlimit{Cur: l.Max, Max: l.Max}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
			log.Warn("the limit of descriptors could not be raised", "limit", l.Cur, "error", err)
			return l.Cur
		}
	}
	return l.Max
}
