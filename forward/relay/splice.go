// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/peek"
	"github.com/egressd/egressd/policy"
)

// Splicing is how two connections are spliced.
type Splicing struct {
	// Idle is for how long no byte must pass either way, most how long it may last;
	// 0: for ever.
	Idle, Most time.Duration
	// Enforce: a second ClientHello without the name of the first ends it.
	Enforce bool
	// Kill ends both connections at once; flag is the response flag of that, where the
	// reason has none.
	Kill func(reason policy.Reason, detail, flag string)
}

// Splice copies both ways between the downstream connection and up, after
// the peeked bytes, until both directions have ended. An orderly end of one
// direction is passed on as such; an error is passed on as a reset.
//
// splice(2) is used between two bare *net.TCPConn, so nothing here wraps a
// connection, and idleness is read off the kernel's own counters.
func (r *Relay) Splice(down, up net.Conn, p *Peeked, o *Splicing) (sent, received int64) {
	if p != nil {
		if err := p.Done(); err != nil {
			return 0, 0
		}
		n, err := up.Write(p.Bytes)
		sent = int64(n)
		if err != nil {
			Reset(down)
			return sent, 0
		}
		p.Free()
	}
	if o.Idle > 0 {
		defer WatchIdle(down, up, o.Idle, o.Kill)()
	}
	defer o.watchAge()()
	back := make(chan int64, 1)
	go func() {
		n, _ := r.pipe(down, up)
		back <- n
	}()
	n, more := readSecond(down, up, p, o)
	sent += n
	if more {
		n, _ = r.pipe(up, down)
		sent += n
	}
	return sent, <-back
}

// readSecond passes on what the client sends, until nothing in it can be a second
// ClientHello any more. False: that was all.
func readSecond(down, up net.Conn, p *Peeked, o *Splicing) (sent int64, more bool) {
	if p == nil || p.Second == nil {
		return 0, true
	}
	for buf := make([]byte, peekChunk); ; {
		judged := p.Second.Read(nil)
		if judged == peek.Refused && o.Enforce {
			o.Kill(policy.ReasonName, SecondName, "")
			return sent, false
		}
		if judged != peek.Undecided {
			return sent, true
		}
		n, err := down.Read(buf)
		if p.Second.Read(buf[:n]) == peek.Refused && o.Enforce {
			continue // the loop's head ends it
		}
		w, werr := up.Write(buf[:n])
		sent += int64(w)
		switch {
		case errors.Is(err, io.EOF) && werr == nil:
			closeWrite(up)
			return sent, false
		case err != nil || werr != nil:
			if !gone(up) {
				Reset(up)
			}
			return sent, false
		}
	}
}

// pipe copies from src to dst until src ends, and passes the end on. It
// returns the bytes copied.
func (r *Relay) pipe(dst, src net.Conn) (n int64, err error) {
	n, err = r.Copy(dst, src)
	if err == nil {
		closeWrite(dst)
		return n, nil
	}
	if gone(dst) {
		// dst was reset. What it sent before is still to be read, as its
		// peer would without us in between; then the other pipe ends.
		return n, err
	}
	Reset(dst)
	return n, err
}

// Copy copies from src to dst until src ends, through a pipe where it can.
func (r *Relay) Copy(dst, src net.Conn) (int64, error) {
	to, ok1 := dst.(*net.TCPConn)
	from, ok2 := src.(*net.TCPConn)
	if ok1 && ok2 {
		return r.flow(to, from)
	}
	return io.Copy(dst, src)
}

// closeWrite ends the sending side of c, or all of c if it has no half-close.
func closeWrite(c net.Conn) {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		_ = h.CloseWrite() // fails when the peer has reset; reading shows it
		return
	}
	c.Close()
}

// gone says whether the peer of c has reset it.
func gone(c net.Conn) bool {
	info, ok := tcpInfo(c)
	return ok && info.State == unix.BPF_TCP_CLOSE
}

// TCP is the TCP connection that c is or is made of; nil: there is none.
func TCP(c net.Conn) *net.TCPConn {
	for {
		switch of := c.(type) {
		case *net.TCPConn:
			return of
		case interface{ NetConn() net.Conn }:
			c = of.NetConn()
		default:
			return nil
		}
	}
}

// Quiet is how long no data has passed c either way; ok is false when the
// kernel can't tell.
func Quiet(c net.Conn) (d time.Duration, ok bool) {
	if u := unixOf(c); u != nil {
		return u.quiet(), true
	}
	info, ok := tcpInfo(c)
	if !ok {
		return 0, false
	}
	return time.Duration(min(info.Last_data_recv, info.Last_data_sent)) * time.Millisecond, true
}

func tcpInfo(c net.Conn) (info *unix.TCPInfo, ok bool) {
	tc := TCP(c)
	if tc == nil {
		return nil, false
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return nil, false
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		info, optErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || optErr != nil {
		return nil, false
	}
	return info, true
}

// WatchIdle kills the connection once no data has passed either side for the
// idle timeout. It costs one timer and nothing for each byte.
func WatchIdle(down, up net.Conn, idle time.Duration, kill func(reason policy.Reason, detail, flag string)) (stop func()) {
	var timer *time.Timer
	ready := make(chan struct{})
	timer = time.AfterFunc(idle, func() {
		<-ready
		d, ok := Quiet(down)
		if !ok {
			return // closed
		}
		rest := idle - d
		if other, ok := Quiet(up); ok {
			rest = max(rest, idle-other)
		}
		if rest <= 0 {
			kill(policy.ReasonAllowed, "idle for "+idle.String(), "")
			return
		}
		timer.Reset(rest)
	})
	close(ready)
	return func() { timer.Stop() }
}

// watchAge ends the connection when it is as old as a DestinationRule lets it
// become. The time runs from the moment when the upstream was reached.
func (o *Splicing) watchAge() (stop func()) {
	if o.Most <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(o.Most, func() {
		o.Kill(policy.ReasonAllowed, "it was "+o.Most.String()+" old (maxConnectionDuration)", flow.FlagMaxDuration)
	})
	return func() { timer.Stop() }
}

// Reset closes nc with a RST where it can, so that the other end sees an
// error at once instead of an orderly end.
func Reset(nc net.Conn) {
	if tc := TCP(nc); tc != nil {
		_ = tc.SetLinger(0) // fails on a closed socket only
	}
	nc.Close()
}

// AddrPort is the address of an end of a connection, invalid if it has none.
func AddrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
