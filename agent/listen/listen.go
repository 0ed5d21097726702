// SPDX-License-Identifier: Apache-2.0

// Package listen has the sockets that the kernel leads workloads' flows to: on
// loopback, at gates for other network namespaces, and at addresses of devices.
package listen

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/internal/portholder"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/arrival"
)

// Ports of the daemon, as Istio's agent has them (15000 admin, when it is asked for,
// 15001 outbound, 15020 status, 15021 readiness, 15053 DNS).
const (
	AdminPort = 15000
	ProxyPort = explain.ProxyPort
	DNSPort   = explain.DNSPort
)

// Options say what to listen on.
type Options struct {
	// Fixed asks for the daemon's ports; without it all are ephemeral, and there are
	// no gates.
	Fixed bool
	// Transparent lets the sockets serve what still bears the address that was
	// dialled (loader's Steer).
	Transparent bool
	// Gates are addresses to listen on besides loopback.
	Gates []netip.Addr
	// From are sockets of an earlier daemon, which are taken before others are
	// made, and whose ports count before all others.
	From *handover.SocketSet
	// Admin is the port of the admin interface, 0: there is none.
	Admin uint16
	Log   *slog.Logger
}

// Set are the sockets that redirected flows arrive at: all bound before
// any is served. Each exists on 127.0.0.1 and, with the same port, on ::1 and on
// the gates.
type Set struct {
	Proxy  []*net.TCPListener
	DNSTCP []net.Listener
	// DNSUDP holds one group per address; in a group the index is the slot.
	DNSUDP [][]net.PacketConn

	log   *slog.Logger
	mu    sync.Mutex // guards the gates of ports, which may be closed, and what replace replaces
	ports loader.Listeners
	// transparent: the sockets may use addresses that are not the node's.
	transparent, fixed bool
	// from are sockets of an earlier daemon, which are taken before others are
	// made.
	from *handover.SocketSet
}

// Open binds every listener, on loopback and the gates. A UDP slot other than the first is always ephemeral. A port
// that somebody else has is replaced by a free one: what is redirected goes to
// whatever ports the kernel is told, and nobody can keep the daemon from
// starting by standing in its place.
func Open(ctx context.Context, o Options) (_ *Set, err error) {
	log, from := o.Log, o.From
	l := &Set{log: log, fixed: o.Fixed, transparent: o.Transparent, from: from}
	l.ports.Admin = o.Admin
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	want := loader.Listeners{}
	if o.Fixed {
		want.Proxy, want.DNSTCP, want.DNSUDP[0] = ProxyPort, DNSPort, DNSPort
	}
	want.Proxy = cmp.Or(from.Port(proxySocket), want.Proxy)
	want.DNSTCP = cmp.Or(from.Port(dnsTCPSocket), want.DNSTCP)
	for slot := range want.DNSUDP {
		want.DNSUDP[slot] = cmp.Or(from.Port(dnsUDPSocket(slot)), want.DNSUDP[slot])
	}
	addrs := append(link.Loopbacks(), o.Gates...)
	for _, g := range o.Gates {
		if g.Is4() {
			l.ports.Gate4 = g
		} else {
			l.ports.Gate6 = g
		}
	}
	if l.ports.Proxy, err = orAnother(log, "tcp", want.Proxy, func(port uint16) (uint16, error) {
		return l.bindTCP(ctx, proxySocket, addrs, port, func(t *net.TCPListener) {
			l.Proxy = append(l.Proxy, t)
			l.add(loader.ProxySocket, 0, t.Addr().(*net.TCPAddr).AddrPort().Addr(), t)
		})
	}); err != nil {
		return nil, fmt.Errorf("listen for redirected connections: %w", err)
	}
	if l.ports.DNSTCP, err = orAnother(log, "tcp", want.DNSTCP, func(port uint16) (uint16, error) {
		return l.bindTCP(ctx, dnsTCPSocket, addrs, port, func(t *net.TCPListener) {
			l.DNSTCP = append(l.DNSTCP, t)
			l.add(loader.DNSTCPSocket, 0, t.Addr().(*net.TCPAddr).AddrPort().Addr(), t)
		})
	}); err != nil {
		return nil, fmt.Errorf("listen for DNS over TCP: %w", err)
	}
	l.DNSUDP = make([][]net.PacketConn, len(addrs))
	for slot := range l.ports.DNSUDP {
		if l.ports.DNSUDP[slot], err = orAnother(log, "udp", want.DNSUDP[slot], func(port uint16) (uint16, error) {
			return l.bindUDP(ctx, slot, addrs, port)
		}); err != nil {
			return nil, fmt.Errorf("listen for DNS over UDP: %w", err)
		}
	}
	return l, nil
}

// orAnother binds a port, or a free one when somebody else has it.
func orAnother(log *slog.Logger, network string, port uint16, bind func(uint16) (uint16, error)) (uint16, error) {
	got, err := bind(port)
	if port == 0 || !errors.Is(err, unix.EADDRINUSE) {
		return got, err
	}
	holder := portholder.Name(network, port)
	if got, err = bind(0); err != nil {
		return 0, fmt.Errorf("port %d is taken by %s, and no other could be had: %w", port, holder, err)
	}
	log.Warn("another process has a port of egressd, so egressd listens on another one; end that process and restart egressd to have the port again, and until then let firewalls between pods and the node pass the other one",
		"network", network, "port", port, "instead", got, "holder", holder)
	return got, nil
}

// tries bounds how often an ephemeral port that is free on one family and
// taken on the other is tried again.
const tries = 16

func (l *Set) bindTCP(ctx context.Context, name string, addrs []netip.Addr, port uint16, keep func(*net.TCPListener)) (uint16, error) {
	return bindAll(addrs, port, func(a netip.AddrPort) (interface{ Close() error }, uint16, error) {
		if t := l.from.Listener(name, a); t != nil {
			return t, a.Port(), l.adopt("tcp", a, t)
		}
		lc := net.ListenConfig{Control: l.control, KeepAlive: -1} // control sets it
		lc.SetMultipathTCP(false)
		ln, err := lc.Listen(ctx, "tcp", a.String())
		if err != nil {
			return nil, 0, err
		}
		return ln, ln.Addr().(*net.TCPAddr).AddrPort().Port(), nil
	}, func(_ int, c interface{ Close() error }) { keep(c.(*net.TCPListener)) })
}

func (l *Set) bindUDP(ctx context.Context, slot int, addrs []netip.Addr, port uint16) (uint16, error) {
	return bindAll(addrs, port, func(a netip.AddrPort) (interface{ Close() error }, uint16, error) {
		if u := l.from.Packet(dnsUDPSocket(slot), a); u != nil {
			return u, a.Port(), l.adopt("udp", a, u)
		}
		lc := net.ListenConfig{Control: l.control}
		pc, err := lc.ListenPacket(ctx, "udp", a.String())
		if err != nil {
			return nil, 0, err
		}
		return pc, pc.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}, func(i int, c interface{ Close() error }) {
		u := c.(*net.UDPConn)
		l.add(loader.DNSUDPSocket, len(l.DNSUDP[i]), u.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), u)
		l.DNSUDP[i] = append(l.DNSUDP[i], u)
	})
}

// add tells the kernel's side of a listener.
func (l *Set) add(kind loader.SocketKind, slot int, addr netip.Addr, c syscall.Conn) {
	l.ports.Sockets = append(l.ports.Sockets, loader.ListenerSocket{Kind: kind, Slot: slot, Addr: addr.Unmap(), Conn: c})
}

// bindAll binds one port on all addresses: the kernel's tables hold one port
// for all of them.
func bindAll(addrs []netip.Addr, port uint16,
	bind func(netip.AddrPort) (interface{ Close() error }, uint16, error),
	keep func(int, interface{ Close() error }),
) (uint16, error) {
	for try := 0; ; try++ {
		p := port
		var bound []interface{ Close() error }
		var err error
		for _, a := range addrs {
			var c interface{ Close() error }
			if c, p, err = bind(netip.AddrPortFrom(a, p)); err != nil {
				break
			}
			bound = append(bound, c)
		}
		if err == nil {
			for i, c := range bound {
				keep(i, c)
			}
			return p, nil
		}
		for _, c := range bound {
			c.Close()
		}
		if port != 0 || try == tries || !errors.Is(err, unix.EADDRINUSE) {
			return 0, err
		}
	}
}

// control sets the options of a socket before it is bound. SO_REUSEADDR lets a
// restarted daemon bind while connections of the one before are in TIME_WAIT.
func (l *Set) control(network, _ string, c syscall.RawConn) error {
	var err error
	set := func(fd uintptr, level, option int) {
		if err == nil {
			err = unix.SetsockoptInt(int(fd), level, option, 1)
		}
	}
	if cerr := c.Control(func(fd uintptr) {
		if network == "tcp4" || network == "tcp6" {
			set(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR)
			err = errors.Join(err, arrival.SaveSYN(fd), dial.SetKeepAlive(fd))
			unpace(fd)
		}
		switch {
		case !l.transparent:
		case network == "tcp6" || network == "udp6":
			set(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT)
		default:
			set(fd, unix.SOL_IP, unix.IP_TRANSPARENT)
		}
	}); cerr != nil {
		return cerr
	}
	return err
}

// unpace has what a listener accepts sent without pacing. A workload's connection to
// egressd does not leave the node, where there is nothing to be gentle with; BBR, the
// default of many nodes, paces what it sends by timers and by a bandwidth that it has to
// find first, which costs large answers a third of their speed. Connections have it from
// the listener (Linux, tcp_assign_congestion_control). Reno is part of every kernel; who
// may not choose (tcp(7), tcp_allowed_congestion_control) keeps the node's default.
func unpace(fd uintptr) {
	_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
}

// Close closes the sockets.
func (l *Set) Close() {
	for _, t := range l.Proxy {
		t.Close()
	}
	for _, t := range l.DNSTCP {
		t.Close()
	}
	for _, group := range l.DNSUDP {
		for _, u := range group {
			u.Close()
		}
	}
}
