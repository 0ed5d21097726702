// SPDX-License-Identifier: Apache-2.0

// Package sockdiag lists sockets and ends them (sock_diag(7)), in this network
// namespace and in those of processes.
package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/link"
	"github.com/egressd/egressd/internal/netns"
	"github.com/egressd/egressd/policy"
)

// Destroy ends a socket of this network namespace: a TCP connection is reset
// at both ends, a UDP socket has an error (SOCK_DESTROY,
// CONFIG_INET_DIAG_DESTROY). The cookie makes sure that it is that socket and
// not a later one with the same addresses. A socket that is gone already is no
// error.
func Destroy(t policy.Transport, src, dst netip.AddrPort, cookie uint64) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	family := uint8(unix.AF_INET)
	if dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	req.AddData(&request{family, t, src, dst, cookie})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("end the socket %s to %s: %w", src, dst, err)
	}
	return nil
}

// CanDestroy probes whether Destroy can end the sockets of a transport: an
// error that wraps errors.ErrUnsupported where it can't (no
// CONFIG_INET_DIAG_DESTROY; tcp_diag or udp_diag are modules that can't be
// loaded). Destroy can't tell: a missing module looks like a socket that is
// gone, so the sockets are listed first.
func CanDestroy(t policy.Transport) error {
	for _, lo := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		family := uint8(unix.AF_INET)
		if lo.Is6() {
			family = unix.AF_INET6
		}
		nowhere := netip.AddrPortFrom(lo, 0)
		err := dump(t, family, func(Socket, bool) {})
		if err == nil {
			err = Destroy(t, nowhere, nowhere, 0)
		}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// request is struct inet_diag_req_v2 (linux/inet_diag.h): addresses and
// ports in network order, the rest in host order.
type request struct {
	family    uint8
	transport policy.Transport
	src, dst  netip.AddrPort
	cookie    uint64
}

func (*request) Len() int { return 56 }

func (r *request) Serialize() []byte {
	b := make([]byte, 0, r.Len())
	b = append(b, r.family, byte(r.transport), 0, 0)
	b = binary.NativeEndian.AppendUint32(b, 0xffffffff) // all states
	b = binary.BigEndian.AppendUint16(b, r.src.Port())
	b = binary.BigEndian.AppendUint16(b, r.dst.Port())
	for _, a := range []netip.Addr{r.src.Addr(), r.dst.Addr()} {
		var field [16]byte
		copy(field[:], a.AsSlice())
		b = append(b, field[:]...)
	}
	b = binary.NativeEndian.AppendUint32(b, 0) // any interface
	b = binary.NativeEndian.AppendUint32(b, uint32(r.cookie))
	return binary.NativeEndian.AppendUint32(b, uint32(r.cookie>>32))
}

// Destroy is the function Destroy in the network namespace of the socket, which
// is looked for at the process pid and then at those that rest lists. here is
// the cookie of the calling thread's.
func (s Socket) Destroy(here uint64, pid int, rest func() ([]int, error)) error {
	end := func() error { return Destroy(s.Transport, s.Src, s.Dst, s.Cookie) }
	if s.Netns == 0 || s.Netns == here {
		return end()
	}
	err := netns.In(s.Netns, []int{pid}, end)
	if !errors.Is(err, netns.ErrGone) {
		return err
	}
	pids, err := rest()
	if err != nil {
		return err
	}
	return netns.In(s.Netns, pids, end)
}

// Socket is a socket that has a peer.
type Socket struct {
	Transport policy.Transport
	Src, Dst  netip.AddrPort // IPv4 is unmapped
	Cgroup    uint64         // id of the cgroup v2 that the socket was made in
	Cookie    uint64
	UID       int
	// Inbound: somebody listens on the local port, so the peer opened it.
	Inbound bool
	// Netns is the cookie of its network namespace; 0: the calling thread's.
	Netns uint64
}

// List lists the TCP connections and the connected UDP sockets of this
// network namespace and of those that the processes are in.
func List(pids []int) ([]Socket, error) {
	all, err := list()
	if err != nil {
		return nil, err
	}
	err = netns.Each(pids, func(cookie uint64) error {
		more, err := list()
		for i := range more {
			more[i].Netns = cookie
		}
		all = append(all, more...)
		return err
	})
	return all, err
}

func list() ([]Socket, error) {
	var all []Socket
	listening := map[netip.AddrPort]bool{}
	for _, t := range []policy.Transport{policy.TCP, policy.UDP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := dump(t, family, func(s Socket, listens bool) {
				switch {
				case listens && t == policy.TCP:
					listening[s.Src] = true
				case s.Dst.Port() != 0:
					all = append(all, s)
				}
			})
			if err != nil {
				return nil, err
			}
		}
	}
	for i, s := range all {
		if s.Transport != policy.TCP {
			continue
		}
		for _, local := range []netip.Addr{s.Src.Addr(), netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			all[i].Inbound = all[i].Inbound || listening[netip.AddrPortFrom(local, s.Src.Port())]
		}
	}
	return all, nil
}

// Of linux/inet_diag.h and include/net/tcp_states.h.
const (
	attrCgroupID = 21 // INET_DIAG_CGROUP_ID
	tcpListen    = 10 // TCP_LISTEN
	msgSize      = 72 // sizeof(struct inet_diag_msg)
)

// dump lists the sockets of a transport and family (sock_diag(7)).
func dump(t policy.Transport, family uint8, f func(s Socket, listens bool)) error {
	messages, err := link.Whole(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(&request{family: family, transport: t})
		return req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	})
	if err != nil {
		return fmt.Errorf("list %s sockets: %w", t, err)
	}
	for _, m := range messages {
		if len(m) < msgSize {
			continue
		}
		s := Socket{
			Transport: t,
			Src:       netip.AddrPortFrom(address(family, m[8:24]), binary.BigEndian.Uint16(m[4:])),
			Dst:       netip.AddrPortFrom(address(family, m[24:40]), binary.BigEndian.Uint16(m[6:])),
			Cookie:    uint64(binary.NativeEndian.Uint32(m[44:])) | uint64(binary.NativeEndian.Uint32(m[48:]))<<32,
			UID:       int(binary.NativeEndian.Uint32(m[64:])),
		}
		attrs, err := nl.ParseRouteAttr(m[msgSize:])
		if err != nil {
			return fmt.Errorf("list %s sockets: %w", t, err)
		}
		for _, a := range attrs {
			if a.Attr.Type == attrCgroupID && len(a.Value) >= 8 {
				s.Cgroup = binary.NativeEndian.Uint64(a.Value)
			}
		}
		f(s, m[1] == tcpListen)
	}
	return nil
}

func address(family uint8, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b)).Unmap()
}
