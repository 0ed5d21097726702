// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// sourceRoute makes a socket send by way of another address: a loose source
// route (RFC 791) or a segment routing header (RFC 8754).
func sourceRoute(fd int, via netip.Addr) error {
	if via.Is4() {
		a := via.As4()
		option := append([]byte{0x83, 7, 4}, a[:]...)
		return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(append(option, 0)))
	}
	a := via.As16()
	// Two segments; the last one is replaced by the destination.
	header := append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, make([]byte, 16)...)
	return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_RTHDR, string(append(header, a[:]...)))
}

// TestSourceRoute: an allowed destination does not lend itself as a pretext
// for sending to another address.
func TestSourceRoute(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ to, via string }{
		{world.DBV4, world.StrangerV4}, {world.DBV6, world.StrangerV6},
	} {
		r.allow(c.to, 443, policy.UDP, policy.Direct)
		via := netip.MustParseAddr(c.via)
		if got := r.run(true, "sendto-routed", hostport(c.to, 443), c.via); got.Errno != "EPERM" {
			t.Errorf("by way of %s: %+v, want EPERM", c.via, got)
		}
		if n := r.world.Packets(via); n != 0 {
			t.Errorf("%d packets to %s left", n, c.via)
		}
		// The DNS listener on loopback is no better pretext.
		if got := r.run(true, "sendto-routed", hostport(c.to, 53), c.via); got.Data != "" {
			t.Errorf("DNS by way of %s: %+v", c.via, got)
		}
		if n := r.world.Packets(via); n != 0 {
			t.Errorf("%d packets of DNS to %s left", n, c.via)
		}
		// The twin: uncaptured, the packet goes where the route says.
		r.run(false, "sendto-routed", hostport(c.to, 443), c.via)
		if r.world.Packets(via) == 0 {
			t.Errorf("uncaptured: no packet to %s; the test proves nothing", c.via)
		}
	}
}

// serveOnce is a UDP server: it says that it is there, answers one datagram,
// and then sends one to a stranger.
func serveOnce(addr netip.AddrPort, args []string) result {
	fd, sa, err := socket(addr, unix.SOCK_DGRAM, false)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	fmt.Println("ready")
	buf := make([]byte, 64)
	n, from, err := receive(fd, buf)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	if err := unix.Sendto(fd, buf[:n], 0, from); err != nil {
		return result{Errno: "reply: " + errnoName(err)}
	}
	_, stranger, err := socket(netip.MustParseAddrPort(args[0]), unix.SOCK_DGRAM, false)
	if err != nil {
		return result{Errno: err.Error()}
	}
	return result{Data: "answered", Errno: errnoName(unix.Sendto(fd, buf[:n], 0, stranger))}
}

// TestReplies: a server of the workload's own answers whoever asks it, over
// UDP and TCP, and nobody else.
func TestReplies(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ node, stranger string }{{world.NodeV4, world.StrangerV4}, {world.NodeV6, world.StrangerV6}} {
		self, err := os.Executable()
		must(t, err)
		cmd := r.world.Node.Command(t.Context(), r.cg, self, hostport(c.node, 5353), hostport(c.stranger, 5353))
		cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT=serve")
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		lines := bufio.NewReader(out)
		if line, err := lines.ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("the server said %q, %v", line, err)
		}
		conn, err := r.world.Net.Dial(t.Context(), "udp", netip.MustParseAddrPort(hostport(c.node, 5353)))
		must(t, err)
		must(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
		if _, err := conn.Write([]byte("hello?")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		if n, err := conn.Read(buf); err != nil || string(buf[:n]) != "hello?" {
			t.Errorf("%s: answer %q, %v", c.node, buf[:n], err)
		}
		conn.Close()
		line, err := lines.ReadString('\n')
		must(t, err)
		var res result
		must(t, json.Unmarshal([]byte(line), &res))
		if res.Data != "answered" || res.Errno != "EPERM" {
			t.Errorf("%s: %+v, want the answer to pass and the stranger to be refused", c.node, res)
		}
		must(t, cmd.Wait())
	}
}

// answering is a UDP server that answers whoever it hears next, or whom it
// heard first, when it is told to.
func answering(addr netip.AddrPort) result {
	in := bufio.NewReader(os.Stdin)
	fd, sa, err := socket(addr, unix.SOCK_DGRAM, false)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	say(result{Data: "ready"})
	buf := make([]byte, 64)
	var heard []unix.Sockaddr
	for word, more := waitLine(in); more; word, more = waitLine(in) {
		if word != "first" {
			_, from, err := receive(fd, buf)
			if err != nil {
				return result{Errno: errnoName(err)}
			}
			heard = append(heard, from)
		}
		from := heard[len(heard)-1]
		if word == "first" {
			from = heard[0]
		}
		if err := unix.Sendto(fd, []byte("hello"), 0, from); err != nil {
			say(result{Errno: errnoName(err)})
			continue
		}
		say(result{Data: "answered", From: sockaddr(from)})
	}
	return result{}
}

// TestRepliesHaveAShare: whoever fills the table of those that may be answered
// takes nothing from a server that answers soon; and the table still serves one
// that has many clients.
func TestRepliesHaveAShare(t *testing.T) {
	r := newRig(t)
	for _, node := range []string{world.NodeV4, world.NodeV6} {
		server := r.talk(r.world.Node, r.cg, "answering", hostport(node, 5353))
		if got := server.next(); got.Data != "ready" {
			t.Fatalf("%+v", got)
		}
		for range 20 { // more than a socket remembers by itself
			conn, err := r.world.Net.Dial(t.Context(), "udp", netip.MustParseAddrPort(hostport(node, 5353)))
			must(t, err)
			if _, err := conn.Write([]byte("hello?")); err != nil {
				t.Fatal(err)
			}
			if got := server.again(); got.From != conn.LocalAddr().String() {
				t.Errorf("%+v, want an answer to %s", got, conn.LocalAddr())
			}
			conn.Close()
		}
		if got := server.ask("first"); got.Data != "answered" {
			t.Errorf("the first of twenty: %+v", got)
		}
		r.emptyPeers(t)
		if got := server.ask("first"); got.Errno != "EPERM" {
			t.Errorf("the first of twenty, when the table has lost it: %+v, want EPERM", got)
		}
	}
	for _, node := range []string{world.NodeV4, world.NodeV6} {
		server := r.talk(r.world.Node, r.cg, "answering", hostport(node, 5354))
		server.next()
		conn, err := r.world.Net.Dial(t.Context(), "udp", netip.MustParseAddrPort(hostport(node, 5354)))
		must(t, err)
		if _, err := conn.Write([]byte("hello?")); err != nil {
			t.Fatal(err)
		}
		server.again()
		r.emptyPeers(t)
		if got := server.ask("first"); got.Data != "answered" {
			t.Errorf("the last one, when the table has lost it: %+v", got)
		}
		conn.Close()
	}
}

// emptyPeers makes egd_peers forget, as it does when it is full.
func (r *rig) emptyPeers(t *testing.T) {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, "egd_peers"), nil)
	must(t, err)
	defer m.Close()
	var keys []bpf.EgressdEgdPeerKey
	var k bpf.EgressdEgdPeerKey
	var at uint64
	it := m.Iterate()
	for it.Next(&k, &at) {
		keys = append(keys, k)
	}
	must(t, it.Err())
	if len(keys) == 0 {
		t.Fatal("the table was empty; the test proves nothing")
	}
	for _, k := range keys {
		must(t, m.Delete(&k))
	}
}
