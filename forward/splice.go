// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"cmp"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/peek"
	"github.com/egressd/egressd/policy"
)

// splice copies both ways between the downstream connection and up, after
// the peeked bytes, until both directions have ended. An orderly end of one
// direction is passed on as such; an error is passed on as a reset.
//
// splice(2) is used between two bare *net.TCPConn, so nothing here wraps a
// connection, and idleness is read off the kernel's own counters.
func (t *conn) splice(u *policy.Upstream, up net.Conn, p *peeked) (sent, received int64) {
	if p != nil {
		if err := p.done(); err != nil {
			return 0, 0
		}
		n, err := up.Write(p.bytes)
		sent = int64(n)
		if err != nil {
			reset(t.nc)
			return sent, 0
		}
		p.free()
	}
	if idle := cmp.Or(u.IdleTimeout(), t.core.o.IdleTimeout); idle > 0 {
		defer t.watchIdle(up, idle)()
	}
	defer t.watchAge(u)()
	back := make(chan int64, 1)
	go func() {
		n, _ := t.pipe(t.nc, up)
		back <- n
	}()
	n, more := t.readSecond(up, p)
	sent += n
	if more {
		n, _ = t.pipe(up, t.nc)
		sent += n
	}
	return sent, <-back
}

// readSecond passes on what the client sends, until nothing in it can be a second
// ClientHello any more. False: that was all.
func (t *conn) readSecond(up net.Conn, p *peeked) (sent int64, more bool) {
	if p == nil || p.second == nil {
		return 0, true
	}
	for buf := make([]byte, peekChunk); ; {
		judged := p.second.Read(nil)
		if judged == peek.Refused && t.info.Mode == policy.Enforce {
			t.kill(policy.ReasonName, secondName)
			return sent, false
		}
		if judged != peek.Undecided {
			return sent, true
		}
		n, err := t.nc.Read(buf)
		if p.second.Read(buf[:n]) == peek.Refused && t.info.Mode == policy.Enforce {
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
				reset(up)
			}
			return sent, false
		}
	}
}

// pipe copies from src to dst until src ends, and passes the end on. It
// returns the bytes copied.
func (t *conn) pipe(dst, src net.Conn) (n int64, err error) {
	n, err = t.copy(dst, src)
	if err == nil {
		closeWrite(dst)
		return n, nil
	}
	if gone(dst) {
		// dst was reset. What it sent before is still to be read, as its
		// peer would without us in between; then the other pipe ends.
		return n, err
	}
	reset(dst)
	return n, err
}

// copy copies from src to dst until src ends, through a pipe where it can.
func (t *conn) copy(dst, src net.Conn) (int64, error) {
	to, ok1 := dst.(*net.TCPConn)
	from, ok2 := src.(*net.TCPConn)
	if ok1 && ok2 {
		return t.flow(to, from)
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

// quiet is how long no data has passed c either way; ok is false when the
// kernel can't tell.
func quiet(c net.Conn) (d time.Duration, ok bool) {
	info, ok := tcpInfo(c)
	if !ok {
		return 0, false
	}
	return time.Duration(min(info.Last_data_recv, info.Last_data_sent)) * time.Millisecond, true
}

func tcpInfo(c net.Conn) (info *unix.TCPInfo, ok bool) {
	tc, ok := c.(*net.TCPConn)
	if !ok {
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

// watchIdle kills the connection once no data has passed either side for the
// idle timeout. It costs one timer and nothing for each byte.
func (t *conn) watchIdle(up net.Conn, idle time.Duration) (stop func()) {
	var timer *time.Timer
	ready := make(chan struct{})
	timer = time.AfterFunc(idle, func() {
		<-ready
		down, ok := quiet(t.nc)
		if !ok {
			return // closed
		}
		rest := idle - down
		if other, ok := quiet(up); ok {
			rest = max(rest, idle-other)
		}
		if rest <= 0 {
			t.kill(policy.ReasonAllowed, "idle for "+idle.String())
			return
		}
		timer.Reset(rest)
	})
	close(ready)
	return func() { timer.Stop() }
}

// watchAge ends the connection when it is as old as a DestinationRule lets those
// to u become. The time runs from the moment when the upstream was reached.
func (t *conn) watchAge(u *policy.Upstream) (stop func()) {
	most := u.MaxDuration()
	if most <= 0 {
		return func() {}
	}
	timer := time.AfterFunc(most, func() {
		t.mu.Lock()
		t.flag = flow.FlagMaxDuration
		t.mu.Unlock()
		t.kill(policy.ReasonAllowed, "it was "+most.String()+" old (maxConnectionDuration)")
	})
	return func() { timer.Stop() }
}
