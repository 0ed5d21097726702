// SPDX-License-Identifier: Apache-2.0

package connlimit

import (
	"errors"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// fake hands out pipes, or errors.
type fake struct {
	next []error // nil: a connection
	far  []net.Conn
}

func (f *fake) Accept() (net.Conn, error) {
	if len(f.next) == 0 {
		return nil, net.ErrClosed
	}
	err := f.next[0]
	f.next = f.next[1:]
	if err != nil {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	}
	near, far := net.Pipe()
	f.far = append(f.far, far)
	return near, nil
}
func (*fake) Close() error   { return nil }
func (*fake) Addr() net.Addr { return nil }

// TestOldestGoes: who holds connections keeps nobody out.
func TestOldestGoes(t *testing.T) {
	f := &fake{next: make([]error, 5)}
	l := New(f, 2, 0)
	defer l.Close()
	var open []net.Conn
	for range 5 {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	for i, far := range f.far {
		go func() { _, _ = far.Write([]byte("x")) }()
		_, err := open[i].Read(make([]byte, 1))
		if gone := err != nil; gone != (i < 3) {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if l.Closed() != 3 || len(l.open) != 2 {
		t.Errorf("%d closed, %d open", l.Closed(), len(l.open))
	}
	for i := range open {
		_ = open[i].Close()
		_ = f.far[i].Close()
	}
	if len(l.open) != 0 {
		t.Errorf("%d open", len(l.open))
	}
}

// TestReserve: a process that has no descriptors left accepts all the same,
// as long as there is a reserve, which is filled again.
func TestReserve(t *testing.T) {
	f := &fake{next: []error{unix.EMFILE, nil, unix.ENFILE, nil, unix.EMFILE, nil, unix.ECONNABORTED}}
	l := New(f, 8, 2)
	defer l.Close()
	first, err := l.Accept()
	if err != nil || len(l.spare) != 1 {
		t.Fatalf("%v, %d spare", err, len(l.spare))
	}
	second, err := l.Accept()
	if err != nil || len(l.spare) != 0 {
		t.Fatalf("%v, %d spare", err, len(l.spare))
	}
	if _, err := l.Accept(); !errors.Is(err, unix.EMFILE) {
		t.Errorf("without a reserve: %v", err)
	}
	_ = first.Close()
	if len(l.spare) != 2 {
		t.Errorf("%d spare", len(l.spare))
	}
	third, err := l.Accept()
	if err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, unix.ECONNABORTED) || len(l.spare) != 2 {
		t.Errorf("another error: %v, %d spare", err, len(l.spare))
	}
	for _, c := range append([]net.Conn{second, third}, f.far...) {
		_ = c.Close()
	}
}
