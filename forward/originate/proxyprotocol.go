// SPDX-License-Identifier: Apache-2.0

package originate

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// signature begins a header of version 2 (haproxy.org, doc/proxy-protocol.txt, 2.2).
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// proxyHeader says on nc who connected to what. A workload of the node's own network
// comes from loopback here; from elsewhere it would be seen at the address that nc
// has.
func proxyHeader(version int, nc net.Conn, src, dst netip.AddrPort) []byte {
	src, dst = plain(src), plain(dst)
	if !src.IsValid() || src.Addr().IsLoopback() {
		at := addrOf(nc.LocalAddr())
		src = netip.AddrPortFrom(at.Addr(), src.Port())
	}
	if !dst.IsValid() || dst.Addr().Is4() != src.Addr().Is4() {
		dst = addrOf(nc.RemoteAddr())
	}
	known := src.IsValid() && dst.IsValid() && src.Addr().Is4() == dst.Addr().Is4()
	if version == 1 {
		if !known {
			return []byte("PROXY UNKNOWN\r\n")
		}
		family := "TCP6"
		if src.Addr().Is4() {
			family = "TCP4"
		}
		return fmt.Appendf(nil, "PROXY %s %s %s %d %d\r\n", family, src.Addr(), dst.Addr(), src.Port(), dst.Port())
	}
	b := append([]byte(signature), 0x21) // version 2, PROXY
	if !known {
		return append(b, 0, 0, 0) // UNSPEC, no addresses
	}
	family, size := byte(0x21), uint16(36) // TCP over IPv6
	if src.Addr().Is4() {
		family, size = 0x11, 12
	}
	b = binary.BigEndian.AppendUint16(append(b, family), size)
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, src.Port()), dst.Port())
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

func addrOf(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return plain(t.AddrPort())
	}
	return netip.AddrPort{}
}
