// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Spent says that this process can open no more files.
func Spent() bool {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return NoDescriptors(err)
}

// NoDescriptors says whether an error is that this process, or all, can open no more
// files.
func NoDescriptors(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }
