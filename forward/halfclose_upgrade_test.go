// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// ticks counts the ticks of a watcher.
type ticks struct{ n atomic.Int32 }

func (c *ticks) Tick() bool { return c.n.Add(1) < 8 }

// TestHalfCloseOfUpgrade: what a client has sent behind an upgrade reaches the origin
// to its last byte, also when the client has ended its side and the origin is slow.
func TestHalfCloseOfUpgrade(t *testing.T) {
	r := newRig(t, HTTP)
	goOn, got := make(chan bool), make(chan int64, 1)
	r.dialer.Dialer = &small{r.fakes}
	// Its window is small from the beginning.
	little := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
	}}
	ln, err := little.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r.at("a.example", ln.Addr())
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(patience))
		br := bufio.NewReader(nc)
		if _, err := http.ReadRequest(br); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		<-goOn
		n, _ := io.Copy(io.Discard, br)
		got <- n
	}()
	nc := r.dial()
	write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil {
		t.Fatal(err)
	}
	const size = 60 << 10 // one segment on loopback, so that a pipe has it at once
	write(t, nc, strings.Repeat("x", size))
	if err := nc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	var seen ticks
	r.core.watcher.Activate(&seen)
	testenv.Until(t, "the watcher ticks", func() bool { return seen.n.Load() == 8 })
	goOn <- true
	if n := receive(t, got); n != size {
		t.Errorf("the origin has %d bytes, want %d", n, size)
	}
}

// small is a Dialer of connections that take little at once.
type small struct{ *fakes }

func (d *small) Dial(ctx context.Context, c *Conn, u *policy.Upstream) (net.Conn, error) {
	nc, err := d.fakes.Dial(ctx, c, u)
	if tc, ok := nc.(*net.TCPConn); ok {
		_ = tc.SetWriteBuffer(4096)
	}
	return nc, err
}
