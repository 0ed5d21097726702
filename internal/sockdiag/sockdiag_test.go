// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// pair is a connection from here to here.
type pair struct {
	client net.Conn
	server net.Conn // nil for UDP
}

func connect(t *testing.T, network, host string) pair {
	t.Helper()
	at := net.JoinHostPort(host, "0")
	var p pair
	var err error
	if network == "udp" {
		pc, err := net.ListenPacket(network, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		if p.client, err = net.Dial(network, pc.LocalAddr().String()); err != nil {
			t.Fatal(err)
		}
	} else {
		ln, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		if p.client, err = net.Dial(network, ln.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if p.server, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.server.Close() })
	}
	t.Cleanup(func() { p.client.Close() })
	if err = p.client.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return p
}

// find returns the socket of this end of a connection.
func find(t *testing.T, c net.Conn) (Socket, bool) {
	t.Helper()
	all, err := List(nil)
	if err != nil {
		t.Fatal(err)
	}
	src, dst := netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(c.RemoteAddr().String())
	i := slices.IndexFunc(all, func(s Socket) bool { return s.Src == src && s.Dst == dst })
	if i < 0 {
		return Socket{}, false
	}
	return all[i], true
}

// TestListAndDestroy: both ends are listed with who opened the connection, a
// socket is ended by its cookie, and one with another cookie is left alone.
func TestListAndDestroy(t *testing.T) {
	for network, transport := range map[string]policy.Transport{"tcp": policy.TCP, "udp": policy.UDP} {
		if err := CanDestroy(transport); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"127.0.0.1", "::1"} {
			p := connect(t, network, host)
			s, ok := find(t, p.client)
			if !ok || s.Transport != transport || s.Inbound || s.UID != os.Getuid() || s.Netns != 0 {
				t.Fatalf("%s to %s: listed %v: %+v", network, host, ok, s)
			}
			if p.server != nil {
				if s, ok := find(t, p.server); !ok || !s.Inbound {
					t.Errorf("%s to %s: the server's end is listed: %v, as inbound: %v", network, host, ok, s.Inbound)
				}
			}
			if err := Destroy(s.Transport, s.Src, s.Dst, s.Cookie+1); err != nil {
				t.Errorf("a socket that is gone: %v", err)
			}
			if _, err := p.client.Write([]byte("x")); err != nil {
				t.Errorf("another cookie ended it: %v", err)
			}
			never := func() ([]int, error) { t.Error("it was looked for elsewhere"); return nil, nil }
			if err := s.Destroy(0, os.Getpid(), never); err != nil {
				t.Fatal(err)
			}
			if _, err := p.client.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("%s to %s: %v, want ECONNABORTED", network, host, err)
			}
			if _, ok := find(t, p.client); ok {
				t.Errorf("%s to %s is still listed", network, host)
			}
		}
	}
}

// TestOfProcess: each socket of a process is handed over once, as the number that
// it has there, and other files are not.
func TestOfProcess(t *testing.T) {
	p := connect(t, "tcp", "127.0.0.1")
	raw, err := p.client.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var cookie uint64
	if err := raw.Control(func(fd uintptr) {
		number = int(fd)
		cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
	}); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	times := 0
	err = OfProcess(os.Getpid(), func(fd, n int) error {
		if fd == n {
			t.Errorf("descriptor %d is not a copy", n)
		}
		if n != number {
			return nil
		}
		times++
		got, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		if got != cookie {
			t.Errorf("descriptor %d is another socket", n)
		}
		return err
	})
	if err != nil || times != 1 {
		t.Errorf("handed over %d times, %v", times, err)
	}
	if err := OfProcess(1<<30, func(int, int) error { return nil }); !Gone(err) && !errors.Is(err, unix.EINVAL) {
		t.Errorf("a process that is not there: %v", err)
	}
}

// TestOfHiddenProcess: what cgroup.procs has for a process of another PID namespace is
// an error that says so, and none that means that the process is gone.
func TestOfHiddenProcess(t *testing.T) {
	err := OfProcess(0, func(int, int) error { return nil })
	if !errors.Is(err, ErrHidden) || Gone(err) {
		t.Errorf("a process of another PID namespace: %v", err)
	}
}
