// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// byDevice talks to addr by a socket whose packets are to leave by a device.
// kind is tcp, udp or sendto, with -mapped behind it for an IPv6 socket; how are
// the ways to choose the device, in the order of their calls. What is sent is a
// hello.
func byDevice(addr netip.AddrPort, kind string, args []string) result {
	name, how := args[0], args[1:]
	kind, mapped := strings.CutSuffix(kind, "-mapped")
	typ := unix.SOCK_DGRAM
	if kind == "tcp" {
		typ = unix.SOCK_STREAM
	}
	fail := func(err error) result { return result{Errno: errnoName(err)} }
	fd, sa, err := socket(addr, typ, mapped)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return fail(err)
	}
	v6 := addr.Addr().Is6()
	for _, h := range how {
		if err := chooseDevice(fd, h, dev, v6); err != nil {
			return result{Errno: h + " " + errnoName(err)}
		}
	}
	if kind != "sendto" {
		if err := unix.Connect(fd, sa); err != nil {
			return fail(err)
		}
		sa = nil
	}
	r := result{}
	if sa == nil {
		r.Peer = peer(fd)
	}
	var control []byte
	if slices.Contains(how, "pktinfo") {
		control = leavingBy(dev.Index, v6)
	}
	if err := unix.Sendmsg(fd, []byte("hello"), control, sa, 0); err != nil {
		r.Errno = errnoName(err)
		return r
	}
	buf := make([]byte, 64)
	n, from, err := receive(fd, buf)
	if err != nil {
		return fail(err)
	}
	r.Data, r.From = string(buf[:n]), sockaddr(from)
	return r
}

// chooseDevice sets a socket option; pktinfo is a control message, not an option.
func chooseDevice(fd int, how string, dev *net.Interface, v6 bool) error {
	if from, ok := strings.CutPrefix(how, "from="); ok {
		if v6 {
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr(from).As16()})
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(from).As4()})
	}
	switch how {
	case "impatient": // connect(2) gives up after SO_SNDTIMEO
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 1})
	case "name":
		return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, dev.Name)
	case "index":
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX, dev.Index)
	case "unicast":
		index := int(binary.NativeEndian.Uint32(binary.BigEndian.AppendUint32(nil, uint32(dev.Index))))
		if v6 {
			return unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_UNICAST_IF, index)
		}
		return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_UNICAST_IF, index)
	}
	return nil
}

func leavingBy(index int, v6 bool) []byte {
	if v6 {
		return unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(index)})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(index)})
}
