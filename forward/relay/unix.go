// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Socket is the stream socket of an accepted connection: a *net.TCPConn, or a Unix.
type Socket interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// Unix is a connection of a unix socket. The kernel does not say when something passed
// on one, so it notes that itself: it is read and written by its methods alone, and so
// has no SyscallConn, by which a Stream would go past them.
type Unix struct {
	Socket
	raw   syscall.RawConn
	moved atomic.Int64 // when something passed, in nanoseconds since epoch
}

// epoch is what the times of all Unix count from: time.Since reads the monotonic clock.
var epoch = time.Now()

// NewUnix makes one of c.
func NewUnix(c *net.UnixConn) *Unix {
	u := &Unix{Socket: c}
	u.raw, _ = c.SyscallConn() // of a closed connection, which nobody watches
	u.note(1)
	return u
}

func (u *Unix) note(n int) {
	if n > 0 {
		u.moved.Store(int64(time.Since(epoch)))
	}
}

// Read implements net.Conn.
func (u *Unix) Read(p []byte) (int, error) {
	n, err := u.Socket.Read(p)
	u.note(n)
	return n, err
}

// Write implements net.Conn.
func (u *Unix) Write(p []byte) (int, error) {
	n, err := u.Socket.Write(p)
	u.note(n)
	return n, err
}

// quiet is how long nothing has passed.
func (u *Unix) quiet() time.Duration { return time.Since(epoch) - time.Duration(u.moved.Load()) }

// unixOf is the Unix that c is or is made of; nil: there is none.
func unixOf(c net.Conn) *Unix {
	for {
		switch of := c.(type) {
		case *Unix:
			return of
		case interface{ NetConn() net.Conn }:
			c = of.NetConn()
		default:
			return nil
		}
	}
}

// Raw is a connection's descriptor, for who watches it; nil: it has none.
func Raw(c Socket) syscall.RawConn {
	if u, ok := c.(*Unix); ok {
		return u.raw
	}
	if s, ok := c.(syscall.Conn); ok {
		raw, _ := s.SyscallConn() // of a closed connection, which nobody watches
		return raw
	}
	return nil
}
