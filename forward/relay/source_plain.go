// SPDX-License-Identifier: Apache-2.0

//go:build !race

package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func receiveOn(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(unix.SYS_RECVFROM, fd, p, 0)
}

func sendOn(fd uintptr, p []byte) (int, syscall.Errno) {
	return call(unix.SYS_SENDTO, fd, p, unix.MSG_NOSIGNAL)
}
