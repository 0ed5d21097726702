// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/egressd/egressd/internal/world"
)

// Machine is a running machine.
type Machine struct {
	*Tap
	stack *stack.Stack
}

const (
	nic = 1
	mtu = 1500
)

// New starts a machine that goes out by the node; see NewTap for number.
func New(w *world.World, name string, number int) (*Machine, error) {
	t, err := NewTap(w, name, number)
	if err != nil {
		return nil, err
	}
	m := &Machine{Tap: t, stack: stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})}
	if err := m.start(); err != nil {
		_ = m.Close() // the first error is the one
		return nil, err
	}
	return m, nil
}

func (m *Machine) start() error {
	ep, err := fdbased.New(&fdbased.Options{
		FDs: []int{m.fd}, MTU: mtu, EthernetHeader: true,
		Address: tcpip.LinkAddress(MAC), PacketDispatchMode: fdbased.Readv,
	})
	if err != nil {
		return err
	}
	if err := m.stack.CreateNIC(nic, ep); err != nil {
		return fmt.Errorf("the machine's interface: %s", err)
	}
	for _, a := range []struct {
		addr  string
		bits  int
		proto tcpip.NetworkProtocolNumber
	}{{m.V4, 24, header.IPv4ProtocolNumber}, {m.V6, 64, header.IPv6ProtocolNumber}} {
		addr := tcpip.ProtocolAddress{
			Protocol:          a.proto,
			AddressWithPrefix: tcpip.AddressWithPrefix{Address: address(netip.MustParseAddr(a.addr)), PrefixLen: a.bits},
		}
		if err := m.stack.AddProtocolAddress(nic, addr, stack.AddressProperties{}); err != nil {
			return fmt.Errorf("the machine's address %s: %s", a.addr, err)
		}
	}
	m.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, Gateway: address(netip.MustParseAddr(m.HostV4)), NIC: nic},
		{Destination: header.IPv6EmptySubnet, Gateway: address(netip.MustParseAddr(m.HostV6)), NIC: nic},
	})
	return nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func full(a netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	proto := header.IPv4ProtocolNumber
	if a.Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	return tcpip.FullAddress{NIC: nic, Addr: address(a.Addr()), Port: a.Port()}, proto
}

// Dial opens a TCP connection from the machine.
func (m *Machine) Dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	addr, proto := full(to)
	c, err := gonet.DialContextTCP(ctx, m.stack, addr, proto)
	if err != nil {
		return nil, err // not a nil pointer in an interface
	}
	return c, nil
}

// DialUDP makes a connected UDP socket on the machine.
func (m *Machine) DialUDP(to netip.AddrPort) (net.Conn, error) {
	addr, proto := full(to)
	c, err := gonet.DialUDP(m.stack, nil, &addr, proto)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ListenUDP makes a UDP socket on the machine.
func (m *Machine) ListenUDP(at netip.AddrPort) (net.PacketConn, error) {
	addr, proto := full(at)
	c, err := gonet.DialUDP(m.stack, &addr, nil, proto)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Listen accepts TCP connections on the machine.
func (m *Machine) Listen(at netip.AddrPort) (net.Listener, error) {
	addr, proto := full(at)
	l, err := gonet.ListenTCP(m.stack, addr, proto)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Close ends the machine and removes its device.
func (m *Machine) Close() error {
	m.stack.Destroy()
	return m.Tap.Close()
}
