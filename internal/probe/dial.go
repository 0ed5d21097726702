// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// look is how long the end of a context goes unnoticed.
const look = 50 * time.Millisecond

// Dial tries one target within the timeout and until ctx ends, by system calls of its own: what
// source address a socket has while its connection is not made tells whether
// it was redirected. It blocks a thread.
func Dial(ctx context.Context, t Attempt, timeout time.Duration) Outcome {
	begin := time.Now()
	o := Outcome{Path: t.Path, Family: t.Family}
	o.Stage, o.Redirected = StageSocket, true
	err := dial(ctx, t, begin.Add(timeout), &o)
	o.Took = time.Since(begin)
	if err == nil {
		o.Stage = ""
		return o
	}
	o.Error = err.Error()
	errno := unix.Errno(0)
	if errors.As(err, &errno) {
		o.Errno = errno
	}
	return o
}

func dial(ctx context.Context, t Attempt, until time.Time, o *Outcome) error {
	s, err := open(t, until)
	if err != nil {
		return err
	}
	defer unix.Close(s.fd)
	s.ctx = ctx
	if t.Announce != nil {
		// The listener must know the source before it sees it.
		src, err := s.bind()
		if err != nil {
			return err
		}
		defer t.Announce(src)()
	}
	o.Stage = StageConnect
	pending := s.connect(t.Addr)
	if pending != nil && !errors.Is(pending, unix.EINPROGRESS) {
		// Loopback has a route, unless it is down.
		unrouted := errors.Is(pending, unix.ENETUNREACH) || errors.Is(pending, unix.EHOSTUNREACH)
		if unrouted && isDown("lo") {
			return fmt.Errorf("%w: %w", errLoopback, pending)
		}
		o.Redirected = !unrouted
		return pending
	}
	src, err := s.source()
	if err != nil {
		return err
	}
	if o.Redirected = src.Addr().IsLoopback(); !o.Redirected {
		return errNotRedirected
	}
	if pending != nil {
		if err := s.connected(); err != nil {
			return err
		}
	}
	o.Stage = StageAnswer
	if t.Path == Proxy {
		return s.greeting()
	}
	return s.question(t.Path == DNSTCP)
}

var (
	errNotRedirected = errors.New("the connection was not redirected to egressd")
	errLoopback      = errors.New("the lo interface is down")
	errAnswer        = errors.New("the answer is not egressd's")
)

func isDown(name string) bool {
	i, err := net.InterfaceByName(name)
	return err == nil && i.Flags&net.FlagUp == 0
}

// socket is a socket that gives up at a time, or when its context ends.
type socket struct {
	fd    int
	v4    bool
	until time.Time
	ctx   context.Context
}

func open(t Attempt, until time.Time) (*socket, error) {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	if t.Family == IPv4 {
		family = unix.AF_INET
	}
	if t.Path == DNSUDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Whatever becomes of the redirection, nothing leaves the machine.
	if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo"); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt SO_BINDTODEVICE", err)
	}
	// No port of this node stays in TIME-WAIT for it.
	if kind == unix.SOCK_STREAM {
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("setsockopt SO_LINGER", err)
		}
	}
	return &socket{fd: fd, v4: t.Family == IPv4, until: until}, nil
}

func (s *socket) address(a netip.AddrPort) unix.Sockaddr {
	if s.v4 {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// bind gives the socket a port of loopback.
func (s *socket) bind() (netip.AddrPort, error) {
	a := netip.IPv6Loopback()
	if s.v4 {
		a = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if err := unix.Bind(s.fd, s.address(netip.AddrPortFrom(a, 0))); err != nil {
		return netip.AddrPort{}, os.NewSyscallError("bind", err)
	}
	return s.source()
}

func (s *socket) connect(to netip.AddrPort) error {
	return os.NewSyscallError("connect", unix.Connect(s.fd, s.address(to)))
}

func (s *socket) source() (netip.AddrPort, error) {
	sa, err := unix.Getsockname(s.fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
}

// wait returns when the socket is ready; ETIMEDOUT when it does not get so in
// time.
func (s *socket) wait(events int16) error {
	for {
		left := time.Until(s.until)
		switch {
		case left <= 0:
			return unix.ETIMEDOUT
		case s.ctx.Err() != nil:
			return unix.ECANCELED
		}
		fds := []unix.PollFd{{Fd: int32(s.fd), Events: events}}
		n, err := unix.Poll(fds, int(min(left, look).Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if n > 0 {
			return nil
		}
	}
}

// connected waits until connect() is done.
func (s *socket) connected() error {
	if err := s.wait(unix.POLLOUT); err != nil {
		return os.NewSyscallError("connect", err)
	}
	code, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return os.NewSyscallError("connect", err)
}

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(s.fd, p)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if err := s.wait(unix.POLLIN); err != nil {
				return 0, os.NewSyscallError("read", err)
			}
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// greeting reads what egressd says to a probe.
func (s *socket) greeting() error {
	got := make([]byte, len(Greeting))
	if _, err := io.ReadFull(s, got); err != nil {
		return err
	}
	if string(got) != Greeting {
		return errAnswer
	}
	return nil
}

// question asks for Name and reads the answer.
func (s *socket) question(framed bool) error {
	id := uint16(rand.Uint32())
	q := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(Name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	raw, err := q.Pack()
	if err != nil {
		return err
	}
	if framed { // RFC 1035, section 4.2.2
		raw = append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...)
	}
	if _, err := unix.Write(s.fd, raw); err != nil {
		return os.NewSyscallError("write", err)
	}
	answer, err := s.answer(framed)
	if err != nil {
		return err
	}
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	switch {
	case err != nil:
		return err
	case h.ID != id || !h.Response:
		return errAnswer
	case h.RCode == dnsmessage.RCodeServerFailure:
		return errOverload
	case h.RCode != dnsmessage.RCodeSuccess:
		return errAnswer
	}
	return nil
}

// errOverload is what the DNS proxy says by SERVFAIL without asking a server.
var errOverload = errors.New("egressd answers that it is overloaded")

func (s *socket) answer(framed bool) ([]byte, error) {
	if !framed {
		buf := make([]byte, 512)
		n, err := s.Read(buf)
		return buf[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(s, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(s, buf)
	return buf, err
}
