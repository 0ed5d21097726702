// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// StreamSocket is the stream socket of an accepted connection: a *net.TCPConn, or a UnixStream.
type StreamSocket interface {
	net.Conn
	CloseRead() error
	CloseWrite() error
}

// UnixStream is a connection of a unix socket. The kernel does not say when something passed
// on one, so it notes that itself: it is read and written by its methods alone, and so
// has no SyscallConn, by which a Stream would go past them.
type UnixStream struct {
	StreamSocket
	raw   syscall.RawConn
	moved atomic.Int64 // when something passed, in nanoseconds since epoch
}

// epoch is what the times of all of them count from: time.Since reads the monotonic clock.
var epoch = time.Now()

// NewUnix makes one of c.
func NewUnix(c *net.UnixConn) *UnixStream {
	u := &UnixStream{StreamSocket: c}
	u.raw, _ = c.SyscallConn() // of a closed connection, which nobody watches
	u.note(1)
	return u
}

func (u *UnixStream) note(n int) {
	if n > 0 {
		u.moved.Store(int64(time.Since(epoch)))
	}
}

// Read implements net.Conn.
func (u *UnixStream) Read(p []byte) (int, error) {
	n, err := u.StreamSocket.Read(p)
	u.note(n)
	return n, err
}

// Write implements net.Conn.
func (u *UnixStream) Write(p []byte) (int, error) {
	n, err := u.StreamSocket.Write(p)
	u.note(n)
	return n, err
}

// quiet is how long nothing has passed.
func (u *UnixStream) quiet() time.Duration { return time.Since(epoch) - time.Duration(u.moved.Load()) }

// unixOf is the UnixStream that c is or is made of; nil: there is none.
func unixOf(c net.Conn) *UnixStream {
	for {
		switch of := c.(type) {
		case *UnixStream:
			return of
		case interface{ NetConn() net.Conn }:
			c = of.NetConn()
		default:
			return nil
		}
	}
}

// Raw is a connection's descriptor, for who watches it; nil: it has none.
func Raw(c StreamSocket) syscall.RawConn {
	if u, ok := c.(*UnixStream); ok {
		return u.raw
	}
	if s, ok := c.(syscall.Conn); ok {
		raw, _ := s.SyscallConn() // of a closed connection, which nobody watches
		return raw
	}
	return nil
}
