// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/dnsproxy"
	"github.com/egressd/egressd/internal/flow"
)

func listenUDP(t *testing.T, network, addr string) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pc.Close() })
	at := pc.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// TestServes: who is the server at an address is known by the socket.
func TestServes(t *testing.T) {
	v4, v6 := listenUDP(t, "udp4", "127.0.0.1:0"), listenUDP(t, "udp6", "[::1]:0")
	all4, dual := listenUDP(t, "udp4", "0.0.0.0:0"), listenUDP(t, "udp", "[::]:0")
	at := func(addr string, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
	}
	// A child of this process, and one that is nobody's.
	child := exec.Command("cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = child.Wait() }()
	own := netip.MustParseAddr("192.0.2.1")
	r := NewServers(func(a netip.Addr) bool { return a == own })
	tests := []struct {
		name   string
		pid    int
		server netip.AddrPort
		want   bool
	}{
		{"IPv4", os.Getpid(), v4, true},
		{"IPv6", os.Getpid(), v6, true},
		{"mapped", os.Getpid(), at("::ffff:127.0.0.1", v4.Port()), true},
		{"another address", os.Getpid(), at("127.0.0.2", v4.Port()), false},
		{"the other family", os.Getpid(), at("::1", v4.Port()), false},
		{"all addresses", os.Getpid(), at("127.0.0.1", all4.Port()), true},
		{"all of IPv4, asked by IPv6", os.Getpid(), at("::1", all4.Port()), false},
		{"both families", os.Getpid(), at("127.0.0.1", dual.Port()), true},
		{"both families, IPv6", os.Getpid(), at("::1", dual.Port()), true},
		{"the node's own address", os.Getpid(), netip.AddrPortFrom(own, all4.Port()), true},
		{"an address of others", os.Getpid(), at("192.0.2.2", all4.Port()), false},
		{"a child", child.Process.Pid, v4, true},
		{"another process", os.Getppid(), v4, false},
		{"no process", 1 << 30, v4, false},
		{"what came by an interface", 0, v4, false},
	}
	for _, tt := range tests {
		for range 2 { // the second time from memory
			c := dnsproxy.Client{Process: flow.Process{PID: tt.pid}}
			if got := r.Serves(c, tt.server); got != tt.want {
				t.Errorf("%s: %v", tt.name, got)
			}
		}
	}
}

// TestServesExactly: where one process listens at the address and another at
// all addresses, the first is the server.
func TestServesExactly(t *testing.T) {
	at := listenUDP(t, "udp4", "127.0.0.1:0")
	r := NewServers(func(netip.Addr) bool { return false })
	sockets := r.at(at, time.Now())
	if len(sockets) != 1 {
		t.Fatalf("sockets at %s: %v", at, sockets)
	}
	const table = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 0 0
   2: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0 0
   3: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 13 2 0 0
   4: 0000000000000000FFFF00000100007F:0036 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 14 2 0 0
`
	var got []string
	err := eachSocket(strings.NewReader(table), func(local netip.AddrPort, inode uint64) { got = append(got, local.String()) })
	if want := "0.0.0.0:53 127.0.0.1:53 [::1]:53 127.0.0.1:54"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, bad := range []string{"x\n 1: zz:0035 0 07 0 0 0 0 0 1 0\n", "x\n 1: 0100:0035 0 07 0 0 0 0 0 1 0\n", "x\n 1: 0100007F:0035 0 07 0 0 0 0 0 one 0\n"} {
		if err := eachSocket(strings.NewReader(bad), func(netip.AddrPort, uint64) {}); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
