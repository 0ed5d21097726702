// SPDX-License-Identifier: Apache-2.0

package dial

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// The keepalive of a TCP connection that nobody has said anything else of: that of
// package net.
const (
	keepAliveSeconds = 15 // to the first probe, and between two
	keepAliveProbes  = 9
)

// SetKeepAlive sets the keepalive of package net on a TCP socket. Connections have it
// from the listener that accepts them (Linux, inet_csk_clone_lock), which saves four
// system calls for each where the net.ListenConfig has KeepAlive -1.
func SetKeepAlive(fd uintptr) error {
	return errors.Join(
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveSeconds),
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveSeconds),
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveProbes),
	)
}

// ListenerKeepAlive is SetKeepAlive as the Control of a net.ListenConfig.
func ListenerKeepAlive(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = SetKeepAlive(fd) }); cerr != nil {
		return cerr
	}
	return err
}
