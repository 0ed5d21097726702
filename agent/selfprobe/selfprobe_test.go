// SPDX-License-Identifier: Apache-2.0

package selfprobe

import (
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/internal/probe"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
)

// TestWaiting: what nobody reads or accepts is seen at the listener, which tells a
// listener that is stuck from one that nothing reaches.
func TestWaiting(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		at := net.JoinHostPort(host, "0")
		pc, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		of := func(c any, p probe.Path) (n int) {
			t.Helper()
			raw, err := c.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) { n = waiting(int(fd), p) }); err != nil {
				t.Fatal(err)
			}
			return n
		}
		if u, c := of(pc, probe.DNSUDP), of(ln, probe.Proxy); u != 0 || c != 0 {
			t.Errorf("%s: %d bytes, %d connections of nobody", host, u, c)
		}
		u, err := net.Dial("udp", pc.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		if _, err := u.Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for deadline := time.Now().Add(5 * time.Second); of(pc, probe.DNSUDP) == 0 || of(ln, probe.DNSTCP) == 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d bytes, %d connections wait", host, of(pc, probe.DNSUDP), of(ln, probe.DNSTCP))
			}
			time.Sleep(time.Millisecond)
		}
		if _, _, err := pc.ReadFrom(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		a, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		if u, c := of(pc, probe.DNSUDP), of(ln, probe.Proxy); u != 0 || c != 0 {
			t.Errorf("%s: %d bytes, %d connections wait behind the last", host, u, c)
		}
	}
}

// TestWhoIsTheProbe: only its own workload is, and sockets that this process
// announced, on loopback; there is no probe without an interval.
func TestWhoIsTheProbe(t *testing.T) {
	s := &Probe{}
	src := netip.MustParseAddrPort("127.0.0.1:4000")
	at := arrival.Arrival{Src: src, Local: netip.MustParseAddr("127.0.0.1")}
	is := func(what string, want bool, o loader.Origin, known bool, at arrival.Arrival) {
		t.Helper()
		if got := s.Is(o, known, at); got != want {
			t.Errorf("%s: %t", what, got)
		}
	}
	is("its workload", true, loader.Origin{Workload: workload.Probe}, true, at)
	is("another workload", false, loader.Origin{Workload: workload.Node}, true, at)
	is("nobody", false, loader.Origin{}, false, at)
	s.own.Store(src, true)
	is("announced", true, loader.Origin{}, false, at)
	is("a workload with the source of one that is announced", false, loader.Origin{Workload: workload.Node}, true, at)
	is("not on loopback", false, loader.Origin{}, false, arrival.Arrival{Src: src, Local: netip.MustParseAddr("169.254.255.151")})
	s = nil
	is("no probe", false, loader.Origin{Workload: workload.Probe}, true, at)
	if s = New(Options{}, Daemon{}); s != nil || s.NotReady() != nil || s.Alive(t.Context()) != nil || s.Status() != nil {
		t.Error("there is a probe without an interval")
	}
}
