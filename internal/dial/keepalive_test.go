// SPDX-License-Identifier: Apache-2.0

package dial

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestListenerKeepAlive: what a listener accepts has the keepalive of package net, which
// sets nothing itself.
func TestListenerKeepAlive(t *testing.T) {
	options := map[string][2]int{
		"SO_KEEPALIVE": {unix.SOL_SOCKET, unix.SO_KEEPALIVE}, "TCP_KEEPIDLE": {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
		"TCP_KEEPINTVL": {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, "TCP_KEEPCNT": {unix.IPPROTO_TCP, unix.TCP_KEEPCNT},
		"TCP_NODELAY": {unix.IPPROTO_TCP, unix.TCP_NODELAY},
	}
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		var have [2]map[string]int
		for i, lc := range []net.ListenConfig{{}, {Control: ListenerKeepAlive, KeepAlive: -1}} {
			have[i] = map[string]int{}
			lc.SetMultipathTCP(false)
			ln, err := lc.Listen(t.Context(), "tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { ln.Close() })
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			c, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			raw, err := c.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) {
				for name, o := range options {
					if have[i][name], err = unix.GetsockoptInt(int(fd), o[0], o[1]); err != nil {
						t.Errorf("%s: %v", name, err)
					}
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		for name := range options {
			if have[0][name] != have[1][name] || have[0][name] == 0 {
				t.Errorf("%s: %s is %d, package net has %d", at, name, have[1][name], have[0][name])
			}
		}
	}
}
