// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
	"github.com/egressd/egressd/loader/telemetry"
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
	if op == "hellos" {
		out, _ := json.Marshal(sendHellos(os.Stdin))
		fmt.Println(string(out))
		os.Exit(0)
	}
	if op != "" {
		out, _ := json.Marshal(client(op, os.Args[1:]))
		fmt.Println(string(out))
		os.Exit(0)
	}
	os.Exit(testenv.Main(m))
}

// rig is a loaded datapath over a cgroup, with listeners that answer who was
// redirected to them.
type rig struct {
	t     *testing.T
	world *world.World
	cg    *world.Cgroup
	dp    *loader.Datapath
	pins  string
	// gates are where the listeners stand besides loopback, and devices where they
	// stand for sockets that are bound to the uplink.
	gates, devices []netip.Addr
	ports          loader.Listeners
	// sockets are the listeners that were opened since the last load.
	sockets []loader.ListenerSocket
}

const testPolicy = policy.DefaultPolicy

func newRig(t *testing.T) *rig {
	t.Helper()
	return newGateRig(t)
}

// newGateRig is newRig with addresses that other namespaces are redirected to.
func newGateRig(t *testing.T, gates ...netip.Addr) *rig {
	t.Helper()
	r := newBareRig(t, gates...)
	r.open()
	return r
}

// newBareRig has no datapath yet.
func newBareRig(t *testing.T, gates ...netip.Addr) *rig {
	t.Helper()
	testenv.RequireBPF(t)
	r := &rig{t: t, world: testenv.World(t), gates: gates}
	must(t, r.world.GiveNode(gates...))
	r.cg = testenv.Cgroup(t)
	r.pins = filepath.Join(testenv.BPFFS(t), "pins")
	return r
}

// open loads a datapath as a fresh daemon would, in the node's namespace.
func (r *rig) open() {
	r.t.Helper()
	r.load(loader.Open)
	must(r.t, r.dp.SetReady(true))
	must(r.t, r.dp.Attach(r.cg.Path()))
}

// load is open without attaching.
func (r *rig) load(open func(loader.Options) (*loader.Datapath, error)) {
	r.t.Helper()
	err := r.world.Node.Do(func() (err error) {
		r.dp, err = open(loader.Options{PinDir: r.pins})
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	dp := r.dp
	r.t.Cleanup(func() { dp.Close() })
	r.sockets = nil
	ports := loader.Listeners{Admin: 15000}
	ports.Proxy = r.serveTCP(loader.ProxySocket)
	ports.DNSTCP = r.serveTCP(loader.DNSTCPSocket)
	for i := range ports.DNSUDP {
		ports.DNSUDP[i] = r.serveUDP(i)
	}
	for _, g := range r.gates {
		if g.Is4() {
			ports.Gate4 = g
		} else {
			ports.Gate6 = g
		}
	}
	ports.Sockets = r.sockets
	r.ports = ports
	id, err := r.cg.ID()
	must(r.t, err)
	must(r.t, dp.SetListeners(ports))
	must(r.t, dp.SetWorkloads(map[uint64]loader.WorkloadState{id: {ID: 1, Policy: testPolicy}}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var loopbacks = []string{"127.0.0.1", "::1"}

// listenAt lists the addresses of the listeners.
func (r *rig) listenAt() []netip.Addr {
	at := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	return append(append(at, r.gates...), r.devices...)
}

// serveTCP answers every connection with the original destination that the
// kernel recorded for it.
func (r *rig) serveTCP(kind loader.SocketKind) (port uint16) {
	r.t.Helper()
	for _, lo := range r.listenAt() {
		ln, err := r.world.Node.Listen(netip.AddrPortFrom(lo, port))
		must(r.t, err)
		port = ln.Addr().(*net.TCPAddr).AddrPort().Port()
		transparent(r.t, ln.(*net.TCPListener))
		saveSYN(r.t, ln.(*net.TCPListener))
		r.listening(loader.ListenerSocket{Kind: kind, Addr: lo, Conn: ln.(*net.TCPListener)})
		done := make(chan struct{})
		dp := r.dp
		go func() {
			defer close(done)
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				at, err := arrival.Of(c.(*net.TCPConn))
				o, ok := dp.TakeOrigin(at)
				ok = ok && err == nil
				fmt.Fprintf(c, "%s %v", o.Dst, ok)
				c.Close()
			}
		}()
		r.t.Cleanup(func() { ln.Close(); <-done })
	}
	return port
}

// listening notes a listener: the kernel has a table of those that are not on a
// device, which may hear this machine only.
func (r *rig) listening(s loader.ListenerSocket) {
	if !slices.Contains(r.devices, s.Addr) {
		r.sockets = append(r.sockets, s)
		return
	}
	raw, err := s.Conn.SyscallConn()
	must(r.t, err)
	must(r.t, raw.Control(func(fd uintptr) { err = arrival.LocalOnly(fd) }))
	must(r.t, err)
}

func saveSYN(t *testing.T, s syscall.Conn) {
	t.Helper()
	raw, err := s.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) { err = arrival.SaveSYN(fd) }))
	must(t, err)
}

// transparent lets a socket use addresses that are not the node's.
func transparent(t *testing.T, s syscall.Conn) {
	t.Helper()
	raw, err := s.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) // of the other family it is not
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}))
}

func sourceOf(a netip.Addr) []byte {
	if a.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
}

func (r *rig) serveUDP(slot int) (port uint16) {
	r.t.Helper()
	for _, lo := range r.listenAt() {
		pc, err := r.world.Node.ListenPacket(netip.AddrPortFrom(lo, port))
		must(r.t, err)
		port = pc.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		transparent(r.t, pc.(*net.UDPConn))
		r.listening(loader.ListenerSocket{Kind: loader.DNSUDPSocket, Slot: slot, Addr: lo, Conn: pc.(*net.UDPConn)})
		done := make(chan struct{})
		dp := r.dp
		go func() {
			defer close(done)
			buf := make([]byte, 512)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				src := from.(*net.UDPAddr).AddrPort()
				o, ok := dp.DatagramOrigin(arrival.Arrival{
					Src:   netip.AddrPortFrom(src.Addr().Unmap(), src.Port()),
					Local: lo, Slot: slot, Token: arrival.QuestionToken(buf[:n]),
				})
				answer := fmt.Appendf(nil, "%s %v", o.Dst, ok)
				if o.Interface != 0 {
					pc.(*net.UDPConn).WriteMsgUDP(answer, sourceOf(o.Dst.Addr()), from.(*net.UDPAddr))
					continue
				}
				pc.WriteTo(answer, from)
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
	return r.runIn(r.world.Node, cg, op, args...)
}

// runIn is run in any namespace and cgroup.
func (r *rig) runIn(ns *world.Netns, cg *world.Cgroup, op string, args ...string) result {
	r.t.Helper()
	self, err := os.Executable()
	must(r.t, err)
	cmd := ns.Command(r.t.Context(), cg, self, args...)
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
	must(t, inForce(r.dp, []policy.Opening{
		{Prefix: netip.MustParsePrefix("203.0.113.0/25"), Port: 443, Transport: policy.TCP, Verdict: policy.Proxy},
		{Prefix: netip.MustParsePrefix("2001:db8:bad::/64"), Port: 443, Transport: policy.TCP, Verdict: policy.Proxy},
		{Prefix: netip.MustParsePrefix("203.0.113.200/32"), Port: 443, Transport: policy.TCP, Verdict: policy.Proxy},
	}...))
	for addr, want := range map[string]string{
		"203.0.113.66": "", "203.0.113.127": "", "203.0.113.128": "ECONNREFUSED", "203.0.113.200": "",
		"203.0.112.66": "ECONNREFUSED", "2001:db8:bad::66": "", "2001:db8:bad:1::66": "ECONNREFUSED",
	} {
		if got := r.run(true, "tcp", hostport(addr, 443)); got.Errno != want {
			t.Errorf("%s: %+v, want errno %q", addr, got, want)
		}
	}
	must(t, r.dp.Tighten(only()))
	for _, addr := range []string{"203.0.113.66", "203.0.113.200", "2001:db8:bad::66"} {
		if got := r.run(true, "tcp", hostport(addr, 443)); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s after everything was taken out: %+v", addr, got)
		}
	}
	fills := r.dp.Fills()
	for name, f := range fills {
		if f.Entries != 0 && name != "egd_workloads" { // the rig's own
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
	port := r.serveTCP(loader.ProxySocket)
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
	events := make(chan telemetry.KernelEvent, 16)
	done := make(chan error)
	go func() { done <- r.dp.Events(func(e telemetry.KernelEvent) { events <- e }) }()
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
	must(t, r.dp.SetWorkload(id, loader.WorkloadState{ID: 1, Policy: testPolicy, Mode: policy.Audit}))
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
	must(t, r.dp.Tighten(only()))
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
