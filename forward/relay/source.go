// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/forward/http1"
)

// LongAgo is a deadline that has passed.
var LongAgo = time.Unix(1, 0)

// Stream is a connection as an http1.Source, and what is written to it. While it
// waits for a message it has no buffer. Its system calls do not wait, so the
// scheduler is not told of them: that would cost as much as the codec, and has it
// start threads when the kernel takes a while to send.
type Stream struct {
	nc    net.Conn
	Raw   syscall.RawConn // nil: it has none
	Count atomic.Int64    // bytes received
	short bool            // the last read took all that there was

	// For one Read or Await.
	p   []byte
	buf http1.Buffer
	n   int
	err error
	// For one Ask: what is sent before the next Await waits, how much of it was sent,
	// and what is called with the last of it.
	asked  []byte
	told   int
	freeFn func()
	// For one Write.
	out   []byte
	wrote int
	werr  error
	// For quiet.
	peek  [1]byte
	still bool
	// For Yield: whether others have run since, and whether there was nothing then; how
	// many more times it is skipped, and how many it was the last time.
	yielded, nothing bool
	skips, skipped   uint16

	readFn, writeFn func(uintptr) bool
}

// Open makes it that of nc.
func (s *Stream) Open(nc net.Conn) {
	s.nc = nc
	if sc, ok := nc.(syscall.Conn); ok {
		s.Raw, _ = sc.SyscallConn() // without it there are buffers
	}
	s.readFn, s.writeFn = s.readAt, s.writeAt
}

// Read reads on within a message.
func (s *Stream) Read(p []byte) (int, error) {
	if s.Raw == nil {
		n, err := s.nc.Read(p)
		s.received(n, len(p))
		return n, err
	}
	if s.short {
		_ = s.Raw.Control(quickAck) // the rest may wait for it
	}
	s.p = p
	return s.read()
}

// ErrSpoke: something came before anything was asked.
var ErrSpoke = errors.New("bytes or the end came before a request was sent")

// Ask has the next Await send p before it waits, which costs one visit less of the
// poller than a Write, and no read that finds nothing. It fails with ErrSpoke, and
// sends nothing, when something has come already. free is called when p is needed no
// more.
func (s *Stream) Ask(p []byte, free func()) { s.asked, s.told, s.freeFn = p, 0, free }

// mostSkips bounds how many times Yield is skipped before it is tried again.
const mostSkips = 1 << 10

// Yield has other goroutines run before the next Await looks whether something has come:
// while they do, who is asked for the next message may send it, and a read that finds
// nothing, a visit of the poller and a wait are saved. Where others have nothing to do
// that is in vain, and is tried less and less often. Who calls it must have waited for
// something since the last time: a goroutine that is always ready to run keeps the
// runtime from asking the poller for others (runtime.findRunnable).
func (s *Stream) Yield() {
	switch {
	case s.Raw == nil:
	case s.skips > 0:
		s.skips--
	default:
		s.yielded, s.nothing = true, false
		runtime.Gosched()
	}
}

// learn is whether Yield was in vain.
func (s *Stream) learn() {
	s.yielded = false
	if s.skipped = min(2*s.skipped+1, mostSkips); !s.nothing {
		s.skipped = 0
	}
	s.skips = s.skipped
}

// Told is how much of what was asked has been sent, in bytes.
func (s *Stream) Told() int { return s.told }

// asks sends what was asked. False: there is nothing to wait for.
func (s *Stream) asks(fd uintptr) bool {
	if s.lookAt(fd); !s.still {
		s.err = ErrSpoke
		return false
	}
	for s.told < len(s.asked) {
		n, e := sendOn(fd, s.asked[s.told:])
		if e != 0 {
			s.err = e
			return false
		}
		s.told += n
	}
	s.free()
	return true
}

func (s *Stream) free() {
	if s.asked != nil {
		s.asked = nil
		s.freeFn()
	}
}

// sendRest sends what asks had no room for.
func (s *Stream) sendRest() error {
	n, err := s.Write(s.asked[s.told:])
	s.told += n
	s.free()
	return err
}

// Await is Read between two messages.
func (s *Stream) Await(b http1.Buffer) (int, error) {
	if s.Raw == nil {
		if s.asked != nil {
			if !s.Quiet() {
				s.free()
				return 0, ErrSpoke
			}
			if err := s.sendRest(); err != nil {
				return 0, err
			}
		}
		p := b.Get()
		n, err := s.nc.Read(p)
		s.received(n, len(p))
		if n == 0 {
			b.Put()
		}
		return n, err
	}
	s.p, s.buf = nil, b
	n, err := s.read()
	if s.yielded {
		s.learn()
	}
	if s.asked == nil {
		return n, err
	}
	if err == unix.EAGAIN { //nolint:errorlint // as asks has it
		err = s.sendRest()
	}
	s.free()
	if s.told == 0 {
		return 0, err
	}
	return s.read() // also after an error: what the other end said before it counts
}

func (s *Stream) read() (int, error) {
	s.n, s.err = 0, nil
	err := s.Raw.Read(s.readFn)
	s.p = nil
	if err != nil {
		return 0, err
	}
	if s.n == 0 && s.err == nil {
		s.err = io.EOF
	}
	return s.n, s.err
}

func (s *Stream) received(n, room int) {
	s.short = n < room
	s.Count.Add(int64(n))
}

// readAt reads once; false: there is nothing.
func (s *Stream) readAt(fd uintptr) bool {
	if s.asked != nil {
		return !s.asks(fd)
	}
	p := s.p
	if p == nil {
		p = s.buf.Get()
	}
	n, e := receiveOn(fd, p)
	if n > 0 {
		s.n = n
		s.received(n, len(p))
		return true
	}
	if s.p == nil {
		s.buf.Put()
	}
	if e == unix.EAGAIN {
		s.nothing = true
		return false
	}
	if e != 0 {
		s.err = e
	}
	return true
}

// Write writes all of p.
func (s *Stream) Write(p []byte) (int, error) {
	if s.Raw == nil {
		return s.nc.Write(p)
	}
	s.out, s.wrote, s.werr = p, 0, nil
	err := s.Raw.Write(s.writeFn)
	s.out = nil
	if err == nil {
		err = s.werr
	}
	return s.wrote, err
}

// writeAt writes what it can; false: there is more.
func (s *Stream) writeAt(fd uintptr) bool {
	for s.wrote < len(s.out) {
		n, e := sendOn(fd, s.out[s.wrote:])
		if e != 0 {
			if e != unix.EAGAIN {
				s.werr = e
			}
			return e != unix.EAGAIN
		}
		s.wrote += n
	}
	return true
}

// call is recvfrom(2) or sendto(2) on a socket that does not block.
func call(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), flags|unix.MSG_DONTWAIT, 0, 0)
		switch e {
		case 0:
			return int(n), 0
		case unix.EINTR:
		default:
			return 0, e
		}
	}
}

// quickAck sends the acknowledgement that the kernel would put off (by 40 ms and
// more) to have it travel with an answer: who waits for it before it sends the rest
// of a message (RFC 896) waits for nothing.
func quickAck(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
}

// Quiet says whether nothing has come, neither bytes nor the end.
func (s *Stream) Quiet() bool {
	if s.Raw == nil {
		q, ok := s.nc.(interface{ Quiet() bool })
		return !ok || q.Quiet()
	}
	s.still = false
	return s.Raw.Control(s.lookAt) == nil && s.still
}

func (s *Stream) lookAt(fd uintptr) {
	_, e := call(unix.SYS_RECVFROM, fd, s.peek[:], unix.MSG_PEEK)
	s.still = e == unix.EAGAIN
}

// Ended says whether the end has come, and nothing before it.
func (s *Stream) Ended() (yes bool) {
	if s.Raw == nil {
		return false
	}
	err := s.Raw.Control(func(fd uintptr) {
		n, err := peekable(int(fd))
		yes = n == 0 && err == nil
	})
	return yes && err == nil
}
