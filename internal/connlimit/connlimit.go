// SPDX-License-Identifier: Apache-2.0

// Package connlimit bounds the connections of a listener without letting those
// that hold them keep others out: when all are taken, the oldest is closed for
// the new one. It can also keep descriptors in reserve, so that a process that
// has run out of them still answers.
package connlimit

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Listener is a net.Listener with a bound. Make one with New.
type Listener struct {
	net.Listener
	max    int
	closed atomic.Uint64

	mu sync.Mutex
	// open are the connections, oldest first.
	open []*conn
	// spare are descriptors that are given up when there are no others.
	spare  []int
	wanted int
}

// New bounds the connections of ln to max, and keeps reserve descriptors for
// them.
func New(ln net.Listener, max, reserve int) *Listener {
	l := &Listener{Listener: ln, max: max, wanted: reserve}
	l.refill()
	return l
}

// Closed is how many connections were closed to make room.
func (l *Listener) Closed() uint64 { return l.closed.Load() }

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		switch {
		case err == nil:
			return l.admit(c), nil
		case (errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)) && l.Release(1):
		default:
			return nil, err
		}
	}
}

func (l *Listener) admit(c net.Conn) net.Conn {
	l.mu.Lock()
	mine := &conn{Conn: c, of: l}
	l.open = append(l.open, mine)
	var oldest *conn
	if len(l.open) > l.max {
		oldest = l.open[0]
		l.open = l.open[1:]
		l.closed.Add(1)
	}
	l.mu.Unlock()
	if oldest != nil {
		_ = oldest.Conn.Close() // whoever serves it finds out
	}
	return mine
}

// Release gives n descriptors of the reserve to whoever needs them first, and
// says whether there was one.
func (l *Listener) Release(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = min(n, len(l.spare))
	for _, fd := range l.spare[:n] {
		unix.Close(fd)
	}
	l.spare = l.spare[n:]
	return n > 0
}

// refill fills the reserve as far as there are descriptors.
func (l *Listener) refill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.spare) < l.wanted {
		fd, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		l.spare = append(l.spare, fd)
	}
}

// Close implements net.Listener. Connections stay open.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.wanted = 0
	l.mu.Unlock()
	l.Release(len(l.spare))
	return l.Listener.Close()
}

func (l *Listener) forget(c *conn) {
	l.mu.Lock()
	for i, o := range l.open {
		if o == c {
			l.open = append(l.open[:i], l.open[i+1:]...)
			break
		}
	}
	l.mu.Unlock()
	l.refill()
}

type conn struct {
	net.Conn
	of *Listener
}

// NetConn is the connection that the listener accepted.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.of.forget(c)
	return err
}
