// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/policy"
)

// userTimeout is how long data may be unacknowledged, or a window shut,
// before the peer counts as gone (TCP_USER_TIMEOUT); the kernel's own bound
// is some 15 minutes.
const userTimeout = 2 * time.Minute

// SetUserTimeout has the kernel give up a TCP connection whose peer is gone.
func SetUserTimeout(nc net.Conn) {
	onTCP(nc, func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	})
}

// setKeepAlive has the kernel ask the peer of a connection to u that is silent whether
// it is there: as often as package net does, or u's DestinationRule says.
func setKeepAlive(nc net.Conn, u *policy.Upstream) {
	onTCP(nc, func(fd uintptr) { _ = dial.SetKeepAlive(fd) })
	tc, ok := nc.(*net.TCPConn)
	if !ok || u.Traffic == nil || u.Traffic.Pool == nil || u.Traffic.Pool.Keepalive == nil {
		return
	}
	k := u.Traffic.Pool.Keepalive
	or := func(d time.Duration) time.Duration {
		if d <= 0 {
			return -1 // as it is
		}
		return d
	}
	count := -1
	if k.Probes > 0 {
		count = k.Probes
	}
	_ = tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: or(k.Idle), Interval: or(k.Interval), Count: count})
}

// onTCP calls set with the descriptor of a TCP connection. Setting an option fails on a
// closed one only, of which the next read tells.
func onTCP(nc net.Conn, set func(fd uintptr)) {
	tc := relay.TCP(nc)
	if tc == nil {
		return
	}
	if raw, err := tc.SyscallConn(); err == nil {
		_ = raw.Control(set)
	}
}
