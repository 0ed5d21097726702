// SPDX-License-Identifier: Apache-2.0

package handover_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("HANDOVER_DIAL"); path != "" { // the stranger of TestStranger
		if _, err := handover.Dial(path); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(testenv.Main(m))
}

// pair returns both ends of a connection.
func pair(t *testing.T) (holder, heir *handover.Channel) {
	t.Helper()
	ln, err := handover.Listen(filepath.Join(t.TempDir(), handover.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if heir, err = handover.Dial(ln.Addr()); err != nil {
		t.Fatal(err)
	}
	if holder, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = holder.Close(), heir.Close() })
	for _, c := range []*handover.Channel{holder, heir} {
		c.SetDeadline(time.Now().Add(10 * time.Second))
	}
	return holder, heir
}

// TestSockets: a listening socket and a UDP socket go over, by name and
// address, and what was queued before is served by who has them now.
func TestSockets(t *testing.T) {
	holder, heir := pair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mine handover.SocketSet
	if err := errors.Join(mine.Add("tcp", ln.(*net.TCPListener)), mine.Add("udp", pc.(*net.UDPConn))); err != nil {
		t.Fatal(err)
	}
	for range 300 { // more than one message holds
		if err := mine.Add("more", ln.(*net.TCPListener)); err != nil {
			t.Fatal(err)
		}
	}
	if err := holder.Send(handover.Message{Kind: handover.Offer, Protocol: handover.Protocol, Version: "v1"}, &mine); err != nil {
		t.Fatal(err)
	}
	mine.Close()
	m, got, err := heir.Expect(handover.Offer)
	if err != nil || m.Version != "v1" || got.Len() != 302 {
		t.Fatalf("%+v with %d descriptors, %v", m, got.Len(), err)
	}
	defer got.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	asker, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer asker.Close()
	if _, err := asker.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ln.Addr().String())
	_, _ = ln.Close(), pc.Close()
	if got.Port("tcp") != at.Port() {
		t.Errorf("port %d", got.Port("tcp"))
	}
	if l := got.Listener("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), at.Port())); l != nil {
		t.Error("a listener at another address")
	}
	if l := got.Listener("udp", netip.MustParseAddrPort(pc.LocalAddr().String())); l != nil {
		t.Error("a UDP socket is taken for a listener")
	}
	l := got.Listener("tcp", at)
	u := got.Packet("udp", netip.MustParseAddrPort(pc.LocalAddr().String()))
	if l == nil || u == nil || got.Listener("tcp", at) != nil {
		t.Fatal("the sockets are not there, or twice")
	}
	defer l.Close()
	defer u.Close()
	_ = l.SetDeadline(time.Now().Add(5 * time.Second))
	_ = u.SetDeadline(time.Now().Add(5 * time.Second))
	c, err := l.Accept()
	if err != nil {
		t.Fatalf("what waited to be accepted: %v", err)
	}
	c.Close()
	buf := make([]byte, 16)
	if n, _, err := u.ReadFrom(buf); err != nil || string(buf[:n]) != "question" {
		t.Errorf("the datagram that waited: %q, %v", buf[:n], err)
	}
}

// TestLock: a lock is passed with its descriptor, and free when both ends have
// let go of it.
func TestLock(t *testing.T) {
	holder, heir := pair(t)
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	try := func() error {
		g, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		return syscall.Flock(int(g.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var mine handover.SocketSet
	if err := mine.Add("lock", f); err != nil {
		t.Fatal(err)
	}
	if err := holder.Send(handover.Message{Kind: handover.Quiet}, &mine); err != nil {
		t.Fatal(err)
	}
	_, got, err := heir.Expect(handover.Quiet)
	if err != nil {
		t.Fatal(err)
	}
	mine.Close()
	f.Close()
	if try() == nil {
		t.Error("the lock went with the holder")
	}
	g := got.File("lock", path)
	if g == nil || g.Name() != path {
		t.Fatalf("the lock's file is %v", g)
	}
	g.Close()
	if err := try(); err != nil {
		t.Errorf("nobody has it any more: %v", err)
	}
}

// TestWords: another version, a refusal, something else and the end are told apart.
func TestWords(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(*handover.Channel) error
		want string
	}{
		{"version", func(c *handover.Channel) error {
			return c.Send(handover.Message{Kind: handover.Offer, Protocol: 99, Version: "v9"}, nil)
		}, "speaks version 99"},
		{"withdrawn", func(c *handover.Channel) error {
			return c.Send(handover.Message{Kind: handover.Withdrawn, Error: "no room"}, nil)
		}, "goes on: no room"},
		{"another", func(c *handover.Channel) error { return c.Send(handover.Message{Kind: handover.Done}, nil) }, `says "done"`},
		{"gone", (*handover.Channel).Close, io.EOF.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			holder, heir := pair(t)
			if err := tt.say(holder); err != nil {
				t.Fatal(err)
			}
			if _, _, err := heir.Expect(handover.Offer); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

// TestStranger: another user's process does not get in even where the modes
// let it; root's does.
func TestStranger(t *testing.T) {
	testenv.RequireRoot(t)
	dir, err := os.MkdirTemp("/tmp", "handover-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, handover.SocketName)
	ln, err := handover.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	self := filepath.Join(dir, "self")
	if err := errors.Join(os.Link(os.Args[0], self), os.Chmod(dir, 0o755)); err != nil {
		b, rerr := os.ReadFile(os.Args[0])
		if err := errors.Join(rerr, os.WriteFile(self, b, 0o755), os.Chmod(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	dial := func(uid uint32) error {
		c := exec.Command(self)
		c.Env = append(os.Environ(), "HANDOVER_DIAL="+path)
		c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		return c.Run()
	}
	if err := dial(65534); err == nil {
		t.Error("the socket's mode lets everybody in")
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		uid  uint32
		good bool
	}{{65534, false}, {0, true}} {
		if err := dial(tt.uid); err != nil {
			t.Errorf("uid %d does not reach the open socket: %v", tt.uid, err)
		}
		c, err := ln.Accept()
		if (err == nil) != tt.good || !tt.good && !errors.Is(err, handover.ErrPeer) {
			t.Errorf("uid %d: %v, want let in %v", tt.uid, err, tt.good)
		}
		if err == nil {
			c.Close()
		}
	}
}
