// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Destroy ends the TCP socket of a connection of this network namespace: both
// ends see a reset (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY). The cookie makes
// sure that it is that socket and not a later one with the same addresses. A
// socket that is gone already is no error.
func Destroy(src, dst netip.AddrPort, cookie uint64) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(&destroyRequest{src, dst, cookie})
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("end the socket %s to %s: %w", src, dst, err)
	}
	return nil
}

// destroyRequest is struct inet_diag_req_v2 (linux/inet_diag.h): addresses and
// ports in network order, the rest in host order.
type destroyRequest struct {
	src, dst netip.AddrPort
	cookie   uint64
}

func (*destroyRequest) Len() int { return 56 }

func (r *destroyRequest) Serialize() []byte {
	b := make([]byte, 0, r.Len())
	family := byte(unix.AF_INET)
	if r.dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	b = append(b, family, unix.IPPROTO_TCP, 0, 0)
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

// LiveAddresses lists the addresses that TCP connections of this network
// namespace go to. IPv4 addresses are unmapped.
func LiveAddresses() (map[netip.Addr]bool, error) {
	out := map[netip.Addr]bool{}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return nil, fmt.Errorf("list TCP sockets: %w", err)
		}
		for _, s := range sockets {
			if a, ok := netip.AddrFromSlice(s.ID.Destination); ok {
				out[a.Unmap()] = true
			}
		}
	}
	return out, nil
}
