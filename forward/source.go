// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usual is how many fields are kept room for between two messages.
const usual = 256

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// source is a connection as an http1.Source. While it waits for a message it has no
// buffer.
type source struct {
	nc    net.Conn
	raw   syscall.RawConn // nil: it has none
	count atomic.Int64    // bytes received
	short bool            // the last read took all that there was

	// For one Await.
	get func() []byte
	put func()
	n   int
	err error

	tryFn  func(uintptr) bool
	ackFn  func(uintptr)
	pollFn func(uintptr)
	poll   [1]unix.PollFd
}

func (s *source) open(nc net.Conn) {
	s.nc = nc
	if sc, ok := nc.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn() // without it there are buffers
	}
	s.tryFn, s.ackFn, s.pollFn = s.try, quickAck, s.pollAt
}

// Read reads on within a message.
func (s *source) Read(p []byte) (int, error) {
	if s.short && s.raw != nil {
		_ = s.raw.Control(s.ackFn) // the rest may wait for it
	}
	n, err := s.nc.Read(p)
	s.received(n, len(p))
	return n, err
}

func (s *source) received(n, room int) {
	s.short = n < room
	s.count.Add(int64(n))
}

// Await is Read between two messages.
func (s *source) Await(get func() []byte, put func()) (int, error) {
	if s.raw == nil {
		p := get()
		n, err := s.nc.Read(p)
		s.received(n, len(p))
		if n == 0 {
			put()
		}
		return n, err
	}
	s.get, s.put = get, put
	if err := s.raw.Read(s.tryFn); err != nil {
		return 0, err
	}
	if s.n == 0 && s.err == nil {
		s.err = io.EOF
	}
	return s.n, s.err
}

func (s *source) try(fd uintptr) bool {
	p := s.get()
	for {
		s.n, s.err = unix.Read(int(fd), p)
		if s.err != unix.EINTR {
			break
		}
	}
	if s.n = max(s.n, 0); s.n > 0 {
		s.received(s.n, len(p))
		return true
	}
	s.put()
	return s.err != unix.EAGAIN
}

// quickAck sends the acknowledgement that the kernel would put off (by 40 ms and
// more) to have it travel with an answer: who waits for it before it sends the rest
// of a message (RFC 896) waits for nothing.
func quickAck(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
}

// quiet says whether nothing has come, neither bytes nor the end.
func (s *source) quiet() bool {
	if s.raw == nil {
		return true
	}
	return s.raw.Control(s.pollFn) == nil && s.poll[0].Revents == 0
}

func (s *source) pollAt(fd uintptr) {
	s.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}
	if _, err := unix.Poll(s.poll[:], 0); err != nil {
		s.poll[0].Revents = 0 // the next read tells
	}
}

// peekAt says whether there are bytes to be read, or the end (0), without waiting.
func (s *source) peekAt() (n int, err error) {
	if s.raw == nil {
		return 0, unix.EAGAIN
	}
	if cerr := s.raw.Control(func(fd uintptr) { n, err = peekable(int(fd)) }); cerr != nil {
		return 0, cerr
	}
	return n, err
}
