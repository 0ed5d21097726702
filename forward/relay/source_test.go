// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
)

// pair is a connection and its other end, of TCP or without a descriptor of its own.
func pair(t *testing.T, tcp bool) (near, far net.Conn) {
	t.Helper()
	if tcp {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		if far, err = net.Dial("tcp", ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { far.Close() })
		if near, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { near.Close() })
		return near, far
	}
	near, far = net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// lent is a buffer that nobody else uses.
type lent []byte

func (b lent) Get() []byte { return b }
func (b lent) Put()        {}

// TestAsk: what is asked is sent whole before the answer is awaited, also when there is
// no room for all of it, and once.
func TestAsk(t *testing.T) {
	for _, c := range []struct {
		tcp  bool
		size int
	}{{true, 100}, {true, 4 << 20}, {false, 100}, {false, 1 << 20}} {
		near, far := pair(t, c.tcp)
		var s Stream
		s.Open(near)
		asked := bytes.Repeat([]byte("request"), c.size/7)
		got := make(chan []byte, 1)
		go func() {
			all := make([]byte, len(asked))
			_, _ = io.ReadFull(far, all)
			_, _ = far.Write([]byte("answer"))
			got <- all
		}()
		buf, freed := make([]byte, 64), 0
		for range 2 { // the second is not asked again
			if freed == 0 {
				s.Ask(asked, func() { freed++ })
			} else {
				go func() { _, _ = far.Write([]byte("answer")) }()
			}
			n, err := s.Await(lent(buf))
			if err != nil || string(buf[:n]) != "answer" || freed != 1 || s.told != len(asked) {
				t.Errorf("%v, %d: %q, %v; freed %d times, %d sent", c.tcp, c.size, buf[:n], err, freed, s.told)
			}
		}
		if !bytes.Equal(<-got, asked) {
			t.Errorf("%v, %d: something else arrived", c.tcp, c.size)
		}
	}
}

// TestAskAfterTheEnd: nothing is sent where something has come before.
func TestAskAfterTheEnd(t *testing.T) {
	for name, spoil := range map[string]func(*net.TCPConn){
		"the end": func(far *net.TCPConn) { _ = far.CloseWrite() },
		"bytes":   func(far *net.TCPConn) { _, _ = far.Write([]byte("HTTP/1.1 200 OK\r\n\r\n")) },
	} {
		near, far := pair(t, true)
		var s Stream
		s.Open(near)
		spoil(far.(*net.TCPConn))
		testenv.Until(t, "what was sent arrives", func() bool { return !s.Quiet() })
		freed := 0
		s.Ask([]byte("request"), func() { freed++ })
		n, err := s.Await(lent(make([]byte, 64)))
		if n != 0 || !errors.Is(err, ErrSpoke) || freed != 1 || s.told != 0 {
			t.Errorf("%s: %d, %v; freed %d times, %d sent", name, n, err, freed, s.told)
		}
	}
}

// TestAskOfTheGone: one that is gone, or is not waited for any more, takes nothing.
func TestAskOfTheGone(t *testing.T) {
	near, _ := pair(t, true)
	var s Stream
	s.Open(near)
	if err := near.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		freed := 0
		s.Ask([]byte("request"), func() { freed++ })
		n, err := s.Await(lent(make([]byte, 64)))
		if n != 0 || freed != 1 || s.told != 0 {
			t.Errorf("%d; freed %d times, %d sent", n, freed, s.told)
		}
		return err
	}
	if err := ask(); err == nil {
		t.Error("after the deadline: no error")
	}
	if err := errors.Join(near.SetDeadline(time.Time{}), near.(*net.TCPConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if err := ask(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("after the end of the sending side: %v", err)
	}
}

// tells is a connection without a descriptor of its own that knows whether something
// has come, as one of TLS does.
type tells struct {
	net.Conn
	quiet bool
	wrote int
}

func (c *tells) Quiet() bool { return c.quiet }

func (c *tells) Write(p []byte) (int, error) {
	c.wrote += len(p)
	return len(p), nil
}

func (c *tells) Read(p []byte) (int, error) { return copy(p, "answer"), nil }

// TestAskOfOneThatTells: as TestAskAfterTheEnd, without a descriptor.
func TestAskOfOneThatTells(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		c := &tells{quiet: quiet}
		var s Stream
		s.Open(c)
		freed := 0
		s.Ask([]byte("request"), func() { freed++ })
		_, err := s.Await(lent(make([]byte, 64)))
		if errors.Is(err, ErrSpoke) == quiet || freed != 1 || c.wrote > 0 != quiet || s.told > 0 != quiet {
			t.Errorf("quiet %t: %v; freed %d times, %d sent", quiet, err, freed, c.wrote)
		}
	}
}

// TestYield: what has come meanwhile is read at once; where nothing has, Yield is left
// out more and more often, until it pays again.
func TestYield(t *testing.T) {
	near, far := pair(t, true)
	var s Stream
	s.Open(near)
	read := func() {
		t.Helper()
		if n, err := s.Await(lent(make([]byte, 64))); n != 1 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	left := uint16(0)
	for range 12 { // in vain
		for s.skips > 0 {
			if s.Yield(); s.yielded {
				t.Fatal("it was not left out")
			}
		}
		s.Yield()
		s.nothing = true // as readAt has it
		s.learn()
		if left = min(2*left+1, mostSkips); s.skips != left {
			t.Fatalf("left out %d times, not %d", s.skips, left)
		}
	}
	s.skips = 0
	if _, err := far.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, "what was sent arrives", func() bool { return !s.Quiet() })
	s.Yield()
	if read(); s.nothing || s.skips != 0 || s.yielded {
		t.Errorf("it was there: %v, left out %d times", s.nothing, s.skips)
	}
	s.Yield()
	go func() { _, _ = far.Write([]byte("x")) }()
	if read(); s.nothing != (s.skips == 1) {
		t.Errorf("nothing was there: %v, left out %d times", s.nothing, s.skips)
	}
}
