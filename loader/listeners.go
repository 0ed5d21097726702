// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/abi"
)

// Listeners are the ports that redirected flows go to, in host order, on
// 127.0.0.1 and ::1 and on the gate of each family.
type Listeners struct {
	Proxy  uint16
	DNSTCP uint16
	DNSUDP [Slots]uint16
	Admin  uint16 // refused to workloads; 0: none
	// Gate4 and Gate6 are where sockets of other network namespaces find the
	// listeners. The zero Addr: nowhere; they are refused what is redirected.
	Gate4, Gate6 netip.Addr
	// Sockets are the listeners themselves: a flow is redirected only while the
	// one that it would reach is open.
	Sockets []ListenerSocket
}

// ListenerSocket is a listener of egressd.
type ListenerSocket struct {
	Kind SocketKind
	Slot int        // of a DNSUDP socket
	Addr netip.Addr // loopback or a gate
	Conn syscall.Conn
}

// SocketKind says what a socket serves.
type SocketKind uint32

// The kinds of enum egd_listener.
const (
	ProxySocket  = SocketKind(bpf.EgressdEgdListenerEGD_L_PROXY)
	DNSTCPSocket = SocketKind(bpf.EgressdEgdListenerEGD_L_DNS_TCP)
	DNSUDPSocket = SocketKind(bpf.EgressdEgdListenerEGD_L_DNS_UDP)
)

func (s ListenerSocket) String() string {
	switch s.Kind {
	case ProxySocket:
		return "proxy at " + s.Addr.String()
	case DNSTCPSocket:
		return "DNS over TCP at " + s.Addr.String()
	}
	return fmt.Sprintf("DNS over UDP, slot %d, at %s", s.Slot, s.Addr)
}

// key is the socket's place in egd_listeners.
func (s ListenerSocket) key() uint32 {
	place := uint32(bpf.EgressdEgdPlaceEGD_LOOPBACK4)
	if !s.Addr.IsLoopback() {
		place = uint32(bpf.EgressdEgdPlaceEGD_GATE4)
	}
	if s.Addr.Is6() {
		place++
	}
	return place*uint32(bpf.EgressdEgdListenerEGD_KINDS) + uint32(s.Kind) + uint32(s.Slot)
}

// setSockets makes egd_listeners hold these sockets and no others.
func (d *Datapath) setSockets(sockets []ListenerSocket) error {
	m := d.objs.EgdListeners
	d.sockets = slices.Clone(sockets)
	is := map[uint32]bool{}
	for _, s := range sockets {
		raw, err := s.Conn.SyscallConn()
		if err != nil {
			return fmt.Errorf("the listener on %s: %w", s.Addr, err)
		}
		is[s.key()] = true
		cerr := raw.Control(func(fd uintptr) { err = m.Put(s.key(), uint64(fd)) })
		if err = errors.Join(cerr, err); err != nil {
			return fmt.Errorf("write egd_listeners: %w", err)
		}
	}
	for key := range m.MaxEntries() {
		if is[key] {
			continue
		}
		// EINVAL: there is none.
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("write egd_listeners: %w", err)
		}
	}
	return nil
}

// Slots is the number of UDP ports of the DNS proxy.
const Slots = int(bpf.EgressdEgdSizeEGD_DNS_SLOTS)

// SetListeners publishes the listeners' ports and sockets. The listeners must be
// bound.
func (d *Datapath) SetListeners(l Listeners) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.setSockets(l.Sockets); err != nil {
		return err
	}
	d.gates.Store(&[2]netip.Addr{l.Gate4, l.Gate6})
	d.config.ProxyPort = abi.Port(l.Proxy)
	d.config.DnsTcpPort = abi.Port(l.DNSTCP)
	for i, p := range l.DNSUDP {
		d.config.DnsPort[i] = abi.Port(p)
	}
	d.config.AdminPort = abi.Port(l.Admin)
	d.config.Gate4, d.config.Gate6 = [16]byte{}, [16]byte{}
	if l.Gate4.IsValid() {
		d.config.Gate4 = l.Gate4.As16()
	}
	if l.Gate6.IsValid() {
		d.config.Gate6 = l.Gate6.As16()
	}
	return d.writeConfig()
}
