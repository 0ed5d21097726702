// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/bpf"
	egdlink "github.com/egressd/egressd/internal/link"
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
	req.AddData(&diagRequest{family, t, src, dst, cookie})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("end the socket %s to %s: %w", src, dst, err)
	}
	return nil
}

// diagRequest is struct inet_diag_req_v2 (linux/inet_diag.h): addresses and
// ports in network order, the rest in host order.
type diagRequest struct {
	family    uint8
	transport policy.Transport
	src, dst  netip.AddrPort
	cookie    uint64
}

func (*diagRequest) Len() int { return 56 }

func (r *diagRequest) Serialize() []byte {
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
// is looked for at the process pid and then at those that rest lists.
func (d *Datapath) Destroy(s OpenSocket, pid int, rest func() ([]int, error)) error {
	end := func() error { return Destroy(s.Transport, s.Src, s.Dst, s.Cookie) }
	if s.Netns == 0 || s.Netns == d.netns() {
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

// netns is the cookie of the network namespace that the listeners are in.
func (d *Datapath) netns() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.config.NetnsCookie
}

// OpenSocket is a socket that has a peer.
type OpenSocket struct {
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

// OpenSockets lists the TCP connections and the connected UDP sockets of this
// network namespace and of those that the processes are in.
func OpenSockets(pids []int) ([]OpenSocket, error) {
	all, err := openSockets()
	if err != nil {
		return nil, err
	}
	err = netns.Each(pids, func(cookie uint64) error {
		more, err := openSockets()
		for i := range more {
			more[i].Netns = cookie
		}
		all = append(all, more...)
		return err
	})
	return all, err
}

func openSockets() ([]OpenSocket, error) {
	var all []OpenSocket
	listening := map[netip.AddrPort]bool{}
	for _, t := range []policy.Transport{policy.TCP, policy.UDP} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			err := diag(t, family, func(s OpenSocket, listens bool) {
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
	diagCgroupID = 21 // INET_DIAG_CGROUP_ID
	tcpListen    = 10 // TCP_LISTEN
	diagMsgSize  = 72 // sizeof(struct inet_diag_msg)
)

// diag dumps the sockets of a transport and family (sock_diag(7)).
func diag(t policy.Transport, family uint8, f func(s OpenSocket, listens bool)) error {
	messages, err := egdlink.Whole(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(&diagRequest{family: family, transport: t})
		return req.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	})
	if err != nil {
		return fmt.Errorf("list %s sockets: %w", t, err)
	}
	for _, m := range messages {
		if len(m) < diagMsgSize {
			continue
		}
		s := OpenSocket{
			Transport: t,
			Src:       netip.AddrPortFrom(diagAddr(family, m[8:24]), binary.BigEndian.Uint16(m[4:])),
			Dst:       netip.AddrPortFrom(diagAddr(family, m[24:40]), binary.BigEndian.Uint16(m[6:])),
			Cookie:    uint64(binary.NativeEndian.Uint32(m[44:])) | uint64(binary.NativeEndian.Uint32(m[48:]))<<32,
			UID:       int(binary.NativeEndian.Uint32(m[64:])),
		}
		attrs, err := nl.ParseRouteAttr(m[diagMsgSize:])
		if err != nil {
			return fmt.Errorf("list %s sockets: %w", t, err)
		}
		for _, a := range attrs {
			if a.Attr.Type == diagCgroupID && len(a.Value) >= 8 {
				s.Cgroup = binary.NativeEndian.Uint64(a.Value)
			}
		}
		f(s, m[1] == tcpListen)
	}
	return nil
}

func diagAddr(family uint8, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b)).Unmap()
}

// LiveAddresses lists the addresses that the sockets of OpenSockets go to, and
// those that were dialled for connections to an endpoint. IPv4 addresses are
// unmapped.
func (d *Datapath) LiveAddresses(pids []int) (map[netip.Addr]bool, error) {
	out := map[netip.Addr]bool{}
	if err := d.dialled(func(a netip.AddrPort) { out[a.Addr()] = true }); err != nil {
		return nil, err
	}
	open, err := OpenSockets(pids)
	if err != nil {
		return nil, err
	}
	for _, s := range open {
		out[s.Dst.Addr()] = true
	}
	return out, nil
}

// dialled calls f with what was dialled for each open connection to the
// endpoint of another address, in any network namespace.
func (d *Datapath) dialled(f func(netip.AddrPort)) error {
	var cookie uint64
	var v bpf.EgressdEgdDialled
	it := d.objs.EgdDialled.Iterate()
	for it.Next(&cookie, &v) {
		f(netip.AddrPortFrom(netip.AddrFrom16(v.Addr).Unmap(), htons(v.Port)))
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read egd_dialled: %w", err)
	}
	return nil
}

// countDialled is exact only while nobody connects.
func (d *Datapath) countDialled() int {
	n := 0
	_ = d.dialled(func(netip.AddrPort) { n++ }) // the part that was read counts
	return n
}
