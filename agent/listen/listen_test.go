// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

func open(t *testing.T, from *handover.SocketSet) *Set {
	t.Helper()
	l, err := Open(t.Context(), Options{From: from, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// duplicate has what a daemon that goes on, or the next one, gets of the sockets.
func duplicate(t *testing.T, l *Set) *handover.SocketSet {
	t.Helper()
	set := &handover.SocketSet{}
	for name, all := range l.Sockets() {
		for _, c := range all {
			if err := set.Add(name, c); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { set.Close() })
	return set
}

// TestOpen: each kind has one port, on loopback of each family, and the kernel is told
// of every socket.
func TestOpen(t *testing.T) {
	l := open(t, nil)
	defer l.Close()
	ports := l.Ports()
	n := len(link.Loopbacks())
	if len(l.Proxy) != n || len(l.DNSTCP) != n || len(l.DNSUDP) != n {
		t.Fatalf("%d, %d and %d sockets on %d addresses", len(l.Proxy), len(l.DNSTCP), len(l.DNSUDP), n)
	}
	port := func(a net.Addr) uint16 { return netip.MustParseAddrPort(a.String()).Port() }
	for i := range n {
		if port(l.Proxy[i].Addr()) != ports.Proxy || port(l.DNSTCP[i].Addr()) != ports.DNSTCP {
			t.Errorf("%v and %v, told %+v", l.Proxy[i].Addr(), l.DNSTCP[i].Addr(), ports)
		}
		for slot, u := range l.DNSUDP[i] {
			if port(u.LocalAddr()) != ports.DNSUDP[slot] {
				t.Errorf("slot %d is %v, told %v", slot, u.LocalAddr(), ports.DNSUDP)
			}
		}
	}
	if want := n * (2 + len(ports.DNSUDP)); len(ports.Sockets) != want {
		t.Errorf("told of %d sockets, not %d", len(ports.Sockets), want)
	}
}

// TestUnpaced: what the proxy accepts is not paced, whatever the node's default is.
func TestUnpaced(t *testing.T) {
	l := open(t, nil)
	defer l.Close()
	for _, ln := range l.Proxy {
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		c, err := ln.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Control(func(fd uintptr) {
			if name, err := unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION); name != "reno" {
				t.Errorf("%v: %q, %v", ln.Addr(), name, err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHandedOver: sockets of a daemon before are taken as they are, with what waits in
// them; one that closed its own has them again, and only those.
func TestHandedOver(t *testing.T) {
	first := open(t, nil)
	c, err := net.Dial("tcp", first.Proxy[0].Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	next, kept := duplicate(t, first), duplicate(t, first)
	first.Close()
	second := open(t, next)
	defer second.Close()
	if a, b := first.Ports(), second.Ports(); a.Proxy != b.Proxy || a.DNSTCP != b.DNSTCP || a.DNSUDP != b.DNSUDP {
		t.Errorf("other ports: %+v, %+v", a, b)
	}
	waits, err := second.Proxy[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	waits.Close()
	if err := first.Reopen(t.Context(), kept); err != nil {
		t.Fatal(err)
	}
	if got := first.Proxy[0].Addr().String(); got != second.Proxy[0].Addr().String() {
		t.Errorf("it has %s again", got)
	}
	first.Close()
	other := open(t, nil)
	theirs := duplicate(t, other)
	other.Close()
	if err := first.Reopen(t.Context(), theirs); err == nil {
		t.Error("ports that the kernel was not told of")
	}
}

// node is a node whose addresses somebody removes.
type node struct {
	missing, restored []netip.Addr
	err               error
}

func (n *node) Missing(a netip.Addr) (bool, error) { return slices.Contains(n.missing, a), nil }

func (n *node) Restore(a netip.Addr) error {
	n.restored = append(n.restored, a)
	return n.err
}

// TestKeepGates: a gate that is gone comes back; where it can't, nothing is led there
// any more, and the other one stays.
func TestKeepGates(t *testing.T) {
	v4, v6 := netip.MustParseAddr("169.254.255.151"), netip.MustParseAddr("fe80::151")
	for _, gone := range []netip.Addr{v4, v6} {
		var log bytes.Buffer
		l := &Set{log: slog.New(slog.NewTextHandler(&log, nil))}
		l.ports.Gate4, l.ports.Gate6 = v4, v6
		var told []loader.Listeners
		tell := func(p loader.Listeners) error { told = append(told, p); return nil }
		n := &node{}
		if l.KeepGates(n, tell); len(n.restored) != 0 || len(told) != 0 || log.Len() != 0 {
			t.Errorf("nothing is missing: %+v, %v: %s", n, told, &log)
		}
		n.missing = []netip.Addr{gone}
		if l.KeepGates(n, tell); !slices.Equal(n.restored, n.missing) || len(told) != 0 || len(l.Gates()) != 2 {
			t.Errorf("%s is gone: %+v, %v", gone, n, told)
		}
		n.err = errors.New("failed")
		l.KeepGates(n, tell)
		if len(told) != 1 || told[0].Gate4 == gone || told[0].Gate6 == gone || len(l.Gates()) != 1 || slices.Contains(l.Gates(), gone) {
			t.Errorf("%s does not come back: told %+v, have %v", gone, told, l.Gates())
		}
	}
}

// TestDevices: egressd listens at addresses that devices have, is served there once,
// and leaves those that are gone; where it can't listen it says so once.
func TestDevices(t *testing.T) {
	testenv.RequireRoot(t)
	l := open(t, nil)
	defer l.Close()
	var log bytes.Buffer
	d := NewDevices(slog.New(slog.NewTextHandler(&log, nil)))
	here, away := netip.MustParseAddr("127.0.0.77"), netip.MustParseAddr("203.0.113.77")
	devices := []link.Device{{Index: 7, Addr4: here}, {Index: 8, Addr4: away}}
	served, stopped := 0, 0
	serve := func(dl *DeviceListener) {
		served++
		dl.Stop = func() {
			stopped++
			dl.Stop = nil
			dl.close()
		}
	}
	for range 2 {
		listening, closeOld := d.Follow(l, devices, serve)
		closeOld()
		if len(listening) != 1 || listening[0].Index != 7 || listening[0].Addr4 != here || served != 1 || stopped != 0 {
			t.Errorf("%+v, served %d, stopped %d", listening, served, stopped)
		}
	}
	if n := strings.Count(log.String(), away.String()); n < 1 || strings.Count(log.String(), "level=WARN") != 1 {
		t.Errorf("said: %s", &log)
	}
	if n := len(d.Sockets()[proxySocket]); n != 1 {
		t.Errorf("%d sockets", n)
	}
	if listening, closeOld := d.Follow(l, nil, serve); len(listening) != 0 {
		t.Errorf("%+v", listening)
	} else if stopped != 0 {
		t.Error("it ended before the kernel was told")
	} else if closeOld(); stopped != 1 {
		t.Errorf("stopped %d times", stopped)
	}
}

// TestServeDevices: the kernel hears where egressd listens before what is gone is
// closed, also when it refuses; where the devices cannot be listed all stays. A server
// that fails ends alone.
func TestServeDevices(t *testing.T) {
	testenv.RequireRoot(t)
	l := open(t, nil)
	defer l.Close()
	var log bytes.Buffer
	d := NewDevices(slog.New(slog.NewTextHandler(&log, nil)))
	here := netip.MustParseAddr("127.0.0.78")
	failed := errors.New("failed")
	var unlisted, untold error
	devices := []link.Device{{Index: 7, Addr4: here}}
	d.list = func() ([]link.Device, error) { return devices, unlisted }
	var told [][]loader.BoundDevice
	var serving []context.Context
	services := DeviceServices{
		Proxy: func(ctx context.Context, ln *net.TCPListener) error {
			serving = append(serving, ctx)
			return errors.Join(failed, ln.Close())
		},
		DNS: func(_ context.Context, udp []net.PacketConn, tcp []net.Listener) error {
			for _, u := range udp {
				u.Close()
			}
			return tcp[0].Close()
		},
		Tell: func(now []loader.BoundDevice) error {
			if len(serving) > 0 && len(now) == 0 && serving[0].Err() != nil {
				t.Error("the listener was closed before the kernel was told")
			}
			told = append(told, now)
			return untold
		},
	}
	now := func(f func() error) {
		if err := f(); err != nil {
			t.Errorf("a device's server ended the daemon: %v", err)
		}
	}
	look := func() { d.Serve(t.Context(), l, services, now, now) }
	look()
	if len(told) != 1 || len(told[0]) != 1 || told[0][0].Addr4 != here || len(serving) != 1 || !strings.Contains(log.String(), "proxied connections of sockets bound to the device are reset") {
		t.Errorf("told %+v, served %d times, said %s", told, len(serving), &log)
	}
	devices, unlisted = nil, failed
	if look(); len(told) != 1 || serving[0].Err() != nil {
		t.Errorf("the devices are not known, and it told %+v", told)
	}
	unlisted, untold = nil, failed
	if look(); len(told) != 2 || len(told[1]) != 0 || serving[0].Err() == nil {
		t.Errorf("the device is gone: told %+v, and it is served: %t", told, serving[0].Err() == nil)
	}
}
