// SPDX-License-Identifier: Apache-2.0

//go:build race

package relay

import (
	"errors"
	"syscall"
)

// The race detector learns from the system calls of package syscall alone that what
// was sent comes before what is received.

func receiveOn(fd uintptr, p []byte) (int, syscall.Errno) {
	return told(func() (int, error) { return syscall.Read(int(fd), p) })
}

func sendOn(fd uintptr, p []byte) (int, syscall.Errno) {
	return told(func() (int, error) { return syscall.Write(int(fd), p) })
}

func told(do func() (int, error)) (int, syscall.Errno) {
	for {
		n, err := do()
		var e syscall.Errno
		switch {
		case !errors.As(err, &e):
			return n, 0
		case e != syscall.EINTR:
			return 0, e
		}
	}
}
