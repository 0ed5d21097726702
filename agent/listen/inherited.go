// SPDX-License-Identifier: Apache-2.0

package listen

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/loader"
)

// Names of the sockets that outlive a daemon: in the service manager's store,
// and when another daemon takes over. Those of one name have other addresses.
const (
	proxySocket  = "proxy"
	dnsTCPSocket = "dns-tcp"
)

func dnsUDPSocket(slot int) string { return "dns-udp-" + strconv.Itoa(slot) }

// adopt gives a socket of an earlier daemon the options of today.
func (l *Set) adopt(network string, at netip.AddrPort, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	if at.Addr().Is4() {
		network += "4"
	} else {
		network += "6"
	}
	return l.control(network, "", raw)
}

// Reopen puts sockets in the place of closed ones: those of from, of the same ports.
func (l *Set) Reopen(ctx context.Context, from *handover.SocketSet) error {
	with, err := Open(ctx, Options{Fixed: l.fixed, Transparent: l.transparent, Gates: l.Gates(), From: from, Log: l.log})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ports.Proxy != with.ports.Proxy || l.ports.DNSTCP != with.ports.DNSTCP || l.ports.DNSUDP != with.ports.DNSUDP {
		with.Close()
		return errors.New("the listeners' own ports could not be had again")
	}
	l.Proxy, l.DNSTCP, l.DNSUDP, l.ports.Sockets = with.Proxy, with.DNSTCP, with.DNSUDP, with.ports.Sockets
	l.from = from
	return nil
}

// Ports are what the kernel is told of the sockets.
func (l *Set) Ports() loader.Listeners {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ports
}

// Now are the sockets that there are now.
func (l *Set) Now() (proxy []*net.TCPListener, dnsTCP []net.Listener, dnsUDP [][]net.PacketConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Proxy, l.DNSTCP, l.DNSUDP
}

// Sockets are all that there are, those of one kind and slot under one name.
func (l *Set) Sockets() map[string][]syscall.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string][]syscall.Conn{}
	for _, t := range l.Proxy {
		add(all, proxySocket, t)
	}
	for _, t := range l.DNSTCP {
		add(all, dnsTCPSocket, t)
	}
	for _, group := range l.DNSUDP {
		for slot, u := range group {
			add(all, dnsUDPSocket(slot), u)
		}
	}
	return all
}

// Sockets are all at addresses of devices, under the names of those of a Set.
func (d *Devices) Sockets() map[string][]syscall.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string][]syscall.Conn{}
	for _, at := range d.at {
		add(all, proxySocket, at.Proxy)
		add(all, dnsTCPSocket, at.DNSTCP)
		for slot, u := range at.DNSUDP {
			add(all, dnsUDPSocket(slot), u)
		}
	}
	return all
}

func add(all map[string][]syscall.Conn, name string, c any) {
	if s, ok := c.(syscall.Conn); ok {
		all[name] = append(all[name], s)
	}
}
