// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

func TestMain(m *testing.M) {
	op := os.Getenv("EGRESSD_TEST_CLIENT")
	if op == "many" {
		if err := dialMany(os.Args[1], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if op != "" {
		out, _ := json.Marshal(client(op, os.Args[1:]))
		fmt.Println(string(out))
		os.Exit(0)
	}
	os.Exit(testenv.Main(m))
}

// result is what a client process saw.
type result struct {
	Errno string
	Peer  string
	From  string
	Data  string
}

// client runs in a process of its own, inside the captured cgroup.
func client(op string, args []string) result {
	addr := netip.MustParseAddrPort(args[0])
	fail := func(err error) result { return result{Errno: errnoName(err)} }
	switch op {
	case "tcp", "tcp-mapped", "udp", "udp-mapped":
		typ := unix.SOCK_STREAM
		if op[:3] == "udp" {
			typ = unix.SOCK_DGRAM
		}
		fd, sa, err := socket(addr, typ, op[3:] == "-mapped")
		if err != nil {
			return fail(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sa); err != nil {
			return fail(err)
		}
		r := result{Peer: peer(fd)}
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
			r.Errno = errnoName(err)
			return r
		}
		buf := make([]byte, 64)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return fail(err)
		}
		r.Data = string(buf[:n])
		return r
	case "sendto", "sendto-mapped", "sendto-routed":
		fd, sa, err := socket(addr, unix.SOCK_DGRAM, op == "sendto-mapped")
		if err != nil {
			return fail(err)
		}
		defer unix.Close(fd)
		if op == "sendto-routed" {
			if err := sourceRoute(fd, netip.MustParseAddr(args[1])); err != nil {
				return result{Errno: "setsockopt " + errnoName(err)}
			}
		}
		if err := unix.Sendto(fd, []byte("hello"), 0, sa); err != nil {
			return fail(err)
		}
		buf := make([]byte, 64)
		n, from, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return fail(err)
		}
		return result{Data: string(buf[:n]), From: sockaddr(from)}
	case "serve":
		return serveOnce(addr, args[1:])
	case "hello":
		return sendHello(addr, args[1:])
	case "hold":
		return hold(addr)
	case "socket":
		var nums [3]int
		for i, a := range args[1:4] {
			nums[i], _ = strconv.Atoi(a)
		}
		fd, err := unix.Socket(nums[0], nums[1], nums[2])
		if err != nil {
			return fail(err)
		}
		unix.Close(fd)
	case "bind":
		fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
		if err != nil {
			return fail(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, sa); err != nil {
			return fail(err)
		}
	}
	return result{}
}

func socket(addr netip.AddrPort, typ int, mapped bool) (int, unix.Sockaddr, error) {
	var sa unix.Sockaddr
	family := unix.AF_INET
	if addr.Addr().Is6() || mapped {
		sa = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
		family = unix.AF_INET6
	} else {
		sa = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
	}
	return fd, sa, err
}

func peer(fd int) string {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return err.Error()
	}
	return sockaddr(sa)
}

// sockaddr prints addresses unmapped, so that v4 and v4-mapped compare equal.
func sockaddr(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String()
	}
	return ""
}

func errnoName(err error) string {
	if e, ok := err.(unix.Errno); ok {
		return unix.ErrnoName(e)
	}
	return err.Error()
}

// rig is a loaded datapath over a cgroup, with listeners that answer who was
// redirected to them.
type rig struct {
	t     *testing.T
	world *world.World
	cg    *world.Cgroup
	dp    *loader.Datapath
	pins  string
}

const testPolicy = policy.DefaultPolicy

func newRig(t *testing.T) *rig {
	t.Helper()
	testenv.RequireBPF(t)
	r := &rig{t: t, world: testenv.World(t)}
	r.cg = testenv.Cgroup(t)
	r.pins = filepath.Join(testenv.BPFFS(t), "pins")
	r.open()
	return r
}

// open loads a datapath as a fresh daemon would, in the node's namespace.
func (r *rig) open() {
	r.t.Helper()
	err := r.world.Node.Do(func() (err error) {
		r.dp, err = loader.Open(loader.Options{PinDir: r.pins})
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	dp := r.dp
	r.t.Cleanup(func() { dp.Close() })
	ports := loader.Listeners{Admin: 15000}
	ports.Proxy = r.serveTCP()
	ports.DNSTCP = r.serveTCP()
	for i := range ports.DNSUDP {
		ports.DNSUDP[i] = r.serveUDP(i)
	}
	id, err := r.cg.ID()
	must(r.t, err)
	must(r.t, dp.SetListeners(ports))
	must(r.t, dp.SetWorkloads(map[uint64]loader.Workload{id: {ID: 1, Policy: testPolicy}}))
	must(r.t, dp.SetReady(true))
	must(r.t, dp.Attach(r.cg.Path()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var loopbacks = []string{"127.0.0.1", "::1"}

// serveTCP answers every connection with the original destination that the
// kernel recorded for it.
func (r *rig) serveTCP() (port uint16) {
	r.t.Helper()
	for _, lo := range loopbacks {
		ln, err := r.world.Node.Listen(netip.AddrPortFrom(netip.MustParseAddr(lo), port))
		must(r.t, err)
		port = ln.Addr().(*net.TCPAddr).AddrPort().Port()
		done := make(chan struct{})
		dp := r.dp
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				src := c.RemoteAddr().(*net.TCPAddr).AddrPort()
				o, ok := dp.TakeOrigin(netip.AddrPortFrom(src.Addr().Unmap(), src.Port()))
				fmt.Fprintf(c, "%s %v", o.Dst, ok)
				c.Close()
			}
		}()
		r.t.Cleanup(func() { ln.Close(); <-done })
	}
	return port
}

func (r *rig) serveUDP(slot int) (port uint16) {
	r.t.Helper()
	for _, lo := range loopbacks {
		pc, err := r.world.Node.ListenPacket(netip.AddrPortFrom(netip.MustParseAddr(lo), port))
		must(r.t, err)
		port = pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		done := make(chan struct{})
		dp := r.dp
		go func() {
			defer close(done)
			buf := make([]byte, 512)
			for {
				_, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				src := from.(*net.UDPAddr).AddrPort()
				o, ok := dp.DatagramOrigin(netip.AddrPortFrom(src.Addr().Unmap(), src.Port()), slot)
				pc.WriteTo(fmt.Appendf(nil, "%s %v", o.Dst, ok), from)
			}
		}()
		r.t.Cleanup(func() { pc.Close(); <-done })
	}
	return port
}

// run starts a client process; captured says whether it is in the cgroup.
func (r *rig) run(captured bool, op string, args ...string) result {
	r.t.Helper()
	cg := r.cg
	if !captured {
		cg = nil
	}
	self, err := os.Executable()
	must(r.t, err)
	cmd := r.world.Node.Command(r.t.Context(), cg, self, args...)
	cmd.Env = append(os.Environ(), "EGRESSD_TEST_CLIENT="+op)
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("%s %v: %v", op, args, err)
	}
	var res result
	must(r.t, json.Unmarshal(out, &res))
	return res
}

func (r *rig) allow(addr string, port uint16, t policy.Transport, v policy.Verdict) {
	r.t.Helper()
	a := netip.MustParseAddr(addr)
	must(r.t, r.dp.SetAddress(testPolicy, a, []policy.Opening{{Port: port, Transport: t, Verdict: v}}))
}

// dsts has one destination for each way of dialling: IPv4, IPv6, v4-mapped.
var dsts = []struct{ name, mapped, addr string }{
	{"v4", "", world.StrangerV4},
	{"v6", "", world.StrangerV6},
	{"v4-mapped", "-mapped", world.StrangerV4},
}

func hostport(addr string, port int) string { return net.JoinHostPort(addr, strconv.Itoa(port)) }

func TestRefusedConnect(t *testing.T) {
	r := newRig(t)
	for _, d := range dsts {
		if got := r.run(true, "tcp"+d.mapped, hostport(d.addr, 443)); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: captured connect: %+v, want ECONNREFUSED", d.name, got)
		}
		if got := r.run(true, "udp"+d.mapped, hostport(d.addr, 443)); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: captured UDP connect: %+v, want ECONNREFUSED", d.name, got)
		}
		if got := r.run(true, "sendto"+d.mapped, hostport(d.addr, 443)); got.Errno != "EPERM" {
			t.Errorf("%s: captured sendto: %+v, want EPERM", d.name, got)
		}
	}
	if n := r.world.Packets(netip.MustParseAddr(world.StrangerV4)); n != 0 {
		t.Errorf("%d packets reached the stranger over IPv4", n)
	}
	if n := r.world.Packets(netip.MustParseAddr(world.StrangerV6)); n != 0 {
		t.Errorf("%d packets reached the stranger over IPv6", n)
	}
	// The positive twin: outside the cgroup the stranger is there.
	if got := r.run(false, "sendto", hostport(world.StrangerV4, 443)); got.Data == "" {
		t.Errorf("uncaptured sendto: %+v, want an answer", got)
	}
	if r.world.Packets(netip.MustParseAddr(world.StrangerV4)) == 0 {
		t.Error("the packet counter saw nothing of the uncaptured datagram")
	}
}

func TestRedirectedConnect(t *testing.T) {
	r := newRig(t)
	for _, d := range dsts {
		r.allow(d.addr, 443, policy.TCP, policy.Proxy)
		dst := hostport(d.addr, 443)
		got := r.run(true, "tcp"+d.mapped, dst)
		if got.Data != dst+" true" || got.Peer != dst {
			t.Errorf("%s: %+v, want the listener to know %s and getpeername to show it", d.name, got, dst)
		}
	}
	if got := r.run(true, "tcp", hostport(world.StrangerV4, 444)); got.Errno != "ECONNREFUSED" {
		t.Errorf("another port of an allowed address: %+v", got)
	}
	must(t, r.dp.SetAddress(testPolicy, netip.MustParseAddr(world.StrangerV4), nil))
	if got := r.run(true, "tcp", hostport(world.StrangerV4, 443)); got.Errno != "ECONNREFUSED" {
		t.Errorf("an address that was taken out: %+v", got)
	}
	if got := r.run(true, "tcp", hostport(world.StrangerV6, 443)); got.Errno != "" {
		t.Errorf("taking one address out took another: %+v", got)
	}
}

func TestDNSIsRedirected(t *testing.T) {
	r := newRig(t)
	for _, d := range dsts {
		dst := hostport(d.addr, 53)
		if got := r.run(true, "udp"+d.mapped, dst); got.Data != dst+" true" || got.Peer != dst {
			t.Errorf("%s: connected UDP: %+v", d.name, got)
		}
		if got := r.run(true, "sendto"+d.mapped, dst); got.Data != dst+" true" || got.From != dst {
			t.Errorf("%s: unconnected UDP: %+v, want the answer to come from %s", d.name, got, dst)
		}
		if got := r.run(true, "tcp"+d.mapped, dst); got.Data != dst+" true" || got.Peer != dst {
			t.Errorf("%s: TCP: %+v", d.name, got)
		}
	}
	if got := r.run(true, "sendto", "127.0.0.53:53"); got.Data != "127.0.0.53:53 true" {
		t.Errorf("a stub resolver on loopback: %+v", got)
	}
}

func TestUDPVerdicts(t *testing.T) {
	r := newRig(t)
	must(t, r.dp.SetAddress(testPolicy, netip.MustParseAddr(world.StrangerV4), []policy.Opening{
		{Port: 443, Transport: policy.UDP, Verdict: policy.Direct},
	}))
	if got := r.run(true, "sendto", hostport(world.StrangerV4, 443)); got.Data == "" {
		t.Errorf("allowed UDP: %+v, want an answer", got)
	}
	// An address that is known for TCP only: connect() is let pass, so that
	// getaddrinfo can ask for the source address; nothing is sent.
	r.allow(world.StrangerV4, 443, policy.TCP, policy.Proxy)
	before := r.world.Packets(netip.MustParseAddr(world.StrangerV4))
	if got := r.run(true, "udp", hostport(world.StrangerV4, 443)); got.Errno != "EPERM" || got.Peer == "" {
		t.Errorf("UDP to an address without a UDP rule: %+v, want connect() to pass and write() to be refused", got)
	}
	if got := r.run(true, "sendto", hostport(world.StrangerV4, 443)); got.Errno != "EPERM" {
		t.Errorf("sendto an address without a UDP rule: %+v, want EPERM", got)
	}
	if n := r.world.Packets(netip.MustParseAddr(world.StrangerV4)); n != before {
		t.Errorf("%d packets leaked", n-before)
	}
}

func TestCIDR(t *testing.T) {
	r := newRig(t)
	open := map[policy.PolicyID][]policy.Opening{testPolicy: {
		{Prefix: netip.MustParsePrefix("203.0.113.0/25"), Port: 443, Transport: policy.TCP, Verdict: policy.Proxy},
		{Prefix: netip.MustParsePrefix("2001:db8:bad::/64"), Port: 443, Transport: policy.TCP, Verdict: policy.Proxy},
		{Prefix: netip.MustParsePrefix("203.0.113.200/32"), Port: 443, Transport: policy.TCP, Verdict: policy.Proxy},
	}}
	must(t, r.dp.Apply(open, loader.Tighten))
	must(t, r.dp.Apply(open, loader.Loosen))
	for addr, want := range map[string]string{
		"203.0.113.66": "", "203.0.113.127": "", "203.0.113.128": "ECONNREFUSED", "203.0.113.200": "",
		"203.0.112.66": "ECONNREFUSED", "2001:db8:bad::66": "", "2001:db8:bad:1::66": "ECONNREFUSED",
	} {
		if got := r.run(true, "tcp", hostport(addr, 443)); got.Errno != want {
			t.Errorf("%s: %+v, want errno %q", addr, got, want)
		}
	}
	must(t, r.dp.Apply(nil, loader.Tighten))
	for _, addr := range []string{"203.0.113.66", "203.0.113.200", "2001:db8:bad::66"} {
		if got := r.run(true, "tcp", hostport(addr, 443)); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s after everything was taken out: %+v", addr, got)
		}
	}
	fills, err := r.dp.Fills()
	must(t, err)
	for name, f := range fills {
		if f.Entries != 0 {
			t.Errorf("%s keeps %d entries", name, f.Entries)
		}
	}
}

func TestSocketTypes(t *testing.T) {
	r := newRig(t)
	// Let everybody have ping sockets, as distributions do.
	must(t, r.world.Node.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)
	}))
	for _, c := range []struct {
		name             string
		family, typ, pro int
		want             string
	}{
		{"tcp4", unix.AF_INET, unix.SOCK_STREAM, 0, ""},
		{"udp6", unix.AF_INET6, unix.SOCK_DGRAM, 0, ""},
		{"raw icmp", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP, "EPERM"},
		{"raw icmp6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6, "EPERM"},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP, "EPERM"},
		{"ping6", unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6, "EPERM"},
		{"udplite", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, "EPERM"},
		{"mptcp falls back", unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "EPROTONOSUPPORT"},
	} {
		args := []string{"0.0.0.0:0", strconv.Itoa(c.family), strconv.Itoa(c.typ), strconv.Itoa(c.pro)}
		if got := r.run(true, "socket", args...); got.Errno != c.want {
			t.Errorf("%s: %+v, want errno %q", c.name, got, c.want)
		}
	}
	for _, typ := range []int{unix.SOCK_RAW, unix.SOCK_DGRAM} {
		if got := r.run(false, "socket", "0.0.0.0:0", strconv.Itoa(unix.AF_INET),
			strconv.Itoa(typ), strconv.Itoa(unix.IPPROTO_ICMP)); got.Errno != "" {
			t.Errorf("uncaptured ICMP socket of type %d: %+v", typ, got)
		}
	}
}

func TestOwnPorts(t *testing.T) {
	r := newRig(t)
	port := r.serveTCP()
	if got := r.run(true, "tcp", hostport("127.0.0.1", int(port))); got.Data == "" {
		t.Errorf("a server of the workload's own on loopback: %+v", got)
	}
	if got := r.run(true, "tcp", "127.0.0.1:15000"); got.Errno != "ECONNREFUSED" {
		t.Errorf("the admin port: %+v", got)
	}
	if got := r.run(true, "bind", "127.0.0.1:15000"); got.Errno != "EPERM" {
		t.Errorf("bind to a port of egressd: %+v, want EPERM", got)
	}
	counters, err := r.dp.Counters()
	must(t, err)
	if counters["deny/own-port"] < 2 {
		t.Errorf("own-port denials are not counted: %v", counters)
	}
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	events := make(chan loader.Event, 16)
	done := make(chan error)
	go func() { done <- r.dp.Events(func(e loader.Event) { events <- e }) }()
	r.run(true, "tcp", hostport(world.StrangerV6, 8443))
	select {
	case e := <-events:
		if e.Dst.String() != hostport(world.StrangerV6, 8443) || e.Reason != policy.ReasonNoRule ||
			e.Workload != 1 || e.PID == 0 || e.Command == "" || time.Since(e.Time) > time.Minute {
			t.Errorf("event %+v", e)
		}
	case <-time.After(10 * time.Second):
		t.Error("no event for a refused connect()")
	}
	must(t, r.dp.DrainEvents())
	if err := <-done; err != nil {
		t.Errorf("Events ended with %v", err)
	}
}

func TestAuditLetsPass(t *testing.T) {
	r := newRig(t)
	id, err := r.cg.ID()
	must(t, err)
	must(t, r.dp.SetWorkload(id, loader.Workload{ID: 1, Policy: testPolicy, Mode: policy.Audit}))
	if got := r.run(true, "sendto", hostport(world.StrangerV4, 443)); got.Data == "" {
		t.Errorf("audited sendto: %+v, want an answer", got)
	}
	counters, err := r.dp.Counters()
	must(t, err)
	if counters["audit/would-deny"] == 0 || counters["deny/no-rule"] != 0 {
		t.Errorf("counters %v", counters)
	}
}

// TestPinnedStateOutlivesTheDaemon: without the process that loaded them the
// programs go on; a new one takes over; Unload frees the workload.
func TestPinnedStateOutlivesTheDaemon(t *testing.T) {
	r := newRig(t)
	r.allow(world.StrangerV4, 443, policy.TCP, policy.Proxy)
	must(t, r.dp.Close())
	if got := r.run(true, "tcp", hostport(world.StrangerV6, 443)); got.Errno != "ECONNREFUSED" {
		t.Errorf("with no daemon: %+v", got)
	}
	r.open()
	if !r.dp.Adopted() {
		t.Error("pinned state was not adopted")
	}
	// The learned address of the first daemon is still open until the new
	// one applies its policy.
	if got := r.run(true, "tcp", hostport(world.StrangerV4, 443)); got.Errno != "" {
		t.Errorf("an address of the earlier run: %+v", got)
	}
	must(t, r.dp.Apply(nil, loader.Tighten))
	if got := r.run(true, "tcp", hostport(world.StrangerV4, 443)); got.Errno != "ECONNREFUSED" {
		t.Errorf("after the new policy was applied: %+v", got)
	}
	must(t, r.dp.Unload())
	must(t, r.dp.Close())
	testenv.NoPins(t, r.pins)
	if got := r.run(true, "sendto", hostport(world.StrangerV4, 443)); got.Data == "" {
		t.Errorf("after unload: %+v, want the workload to be free", got)
	}
}

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
	n, from, err := unix.Recvfrom(fd, buf, 0)
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
