// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// TCP flags (RFC 9293 section 3.1).
const (
	FIN = 1
	SYN = 2
	RST = 4
	ACK = 16
	URG = 32
)

// Segment is a TCP segment, or a UDP datagram, as its sender wants it.
type Segment struct {
	Src, Dst netip.AddrPort
	Protocol uint8 // 0: TCP
	Seq, Ack uint32
	Flags    uint8
	Data     []byte
	// TTL is 64 if 0.
	TTL uint8
	// BadSum puts a wrong checksum into it.
	BadSum bool
	// Fragment is the fragment field of IPv4, and for IPv6 a fragment header.
	Fragment uint16
	// Options stand between the IP header and TCP: IPv4 options (a multiple
	// of 4), or an IPv6 destination options header (of 8).
	Options []byte
	// EtherType is that of IP if 0.
	EtherType uint16
}

// Frame builds the Ethernet frame of a segment to the node.
func (t *Tap) Frame(s Segment) []byte {
	l4 := s.transport()
	var ip []byte
	if s.Src.Addr().Is4() {
		ip = s.ip4(l4)
	} else {
		ip = s.ip6(l4)
	}
	if s.EtherType == 0 {
		s.EtherType = unix.ETH_P_IP
		if s.Src.Addr().Is6() {
			s.EtherType = unix.ETH_P_IPV6
		}
	}
	frame := append(append([]byte{}, t.Host...), MAC...)
	return append(binary.BigEndian.AppendUint16(frame, s.EtherType), ip...)
}

func (s Segment) protocol() uint8 {
	if s.Protocol == 0 {
		return unix.IPPROTO_TCP
	}
	return s.Protocol
}

func (s Segment) transport() []byte {
	b := binary.BigEndian.AppendUint16(nil, s.Src.Port())
	b = binary.BigEndian.AppendUint16(b, s.Dst.Port())
	at := 6
	if s.protocol() == unix.IPPROTO_TCP {
		at = 16
		b = binary.BigEndian.AppendUint32(b, s.Seq)
		b = binary.BigEndian.AppendUint32(b, s.Ack)
		b = append(b, 5<<4, s.Flags, 0xff, 0xff, 0, 0, 0, 0)
		if s.Flags&URG != 0 {
			b[19] = 1
		}
	} else {
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(s.Data)))
		b = append(b, 0, 0)
	}
	b = append(b, s.Data...)
	pseudo := append(s.Src.Addr().AsSlice(), s.Dst.Addr().AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(b)))
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(s.protocol()))
	sum := checksum(append(pseudo, b...))
	if s.BadSum {
		sum ^= 0x5555
	}
	binary.BigEndian.PutUint16(b[at:], sum)
	return b
}

func (s Segment) ttl() byte {
	if s.TTL == 0 {
		return 64
	}
	return s.TTL
}

func (s Segment) ip4(l4 []byte) []byte {
	size := 20 + len(s.Options)
	b := []byte{0x40 | byte(size/4), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(size+len(l4)))
	b = append(b, 0, 1)
	b = binary.BigEndian.AppendUint16(b, s.Fragment)
	b = append(b, s.ttl(), s.protocol(), 0, 0)
	b = append(append(b, s.Src.Addr().AsSlice()...), s.Dst.Addr().AsSlice()...)
	b = append(b, s.Options...)
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, l4...)
}

func (s Segment) ip6(l4 []byte) []byte {
	next := s.protocol()
	if len(s.Options) > 0 {
		s.Options[0] = next
		l4 = append(append([]byte{}, s.Options...), l4...)
		next = unix.IPPROTO_DSTOPTS
	}
	if s.Fragment != 0 {
		head := []byte{next, 0, byte(s.Fragment >> 8), byte(s.Fragment), 0, 0, 0, 1}
		l4 = append(head, l4...)
		next = unix.IPPROTO_FRAGMENT
	}
	b := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(l4)))
	b = append(b, next, s.ttl())
	b = append(append(b, s.Src.Addr().AsSlice()...), s.Dst.Addr().AsSlice()...)
	return append(b, l4...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ParseTCP reads a frame that the node sent; false: it is no TCP segment of a
// flow with the ends src and dst.
func ParseTCP(frame []byte, src, dst netip.AddrPort) (Segment, bool) {
	l4 := 14 + 20
	if src.Addr().Is6() {
		l4 = 14 + 40
	}
	if len(frame) < l4+20 || binary.BigEndian.Uint16(frame[l4:]) != src.Port() || binary.BigEndian.Uint16(frame[l4+2:]) != dst.Port() {
		return Segment{}, false
	}
	end := len(frame)
	if src.Addr().Is4() {
		end = min(end, 14+int(binary.BigEndian.Uint16(frame[16:])))
	}
	s := Segment{Src: src, Dst: dst, Flags: frame[l4+13]}
	s.Seq, s.Ack = binary.BigEndian.Uint32(frame[l4+4:]), binary.BigEndian.Uint32(frame[l4+8:])
	s.Data = frame[min(end, l4+int(frame[l4+12]>>4)*4):end]
	return s, true
}
