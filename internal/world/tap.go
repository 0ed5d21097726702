// SPDX-License-Identifier: Apache-2.0

package world

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	tapSnap   = 128     // bytes of a packet that are looked at
	tapBuffer = 8 << 20 // bytes of socket buffer
)

// Packet says where a packet that left the node was going.
type Packet struct {
	Dst      netip.Addr
	Protocol uint8  // IP protocol; for IPv6 the first header that is not an option
	Port     uint16 // destination port of TCP and UDP, else 0
	Reset    bool   // a TCP segment without data and options that is a reset
}

// tap counts every IP packet that arrives on the wire from the node, whatever
// socket made it: what it did not see did not leave.
type tap struct {
	file *os.File
	mu   sync.Mutex
	seen map[Packet]int
	done sync.WaitGroup
}

func newTap(ns *Netns) (*tap, error) {
	t := &tap{seen: map[Packet]int{}}
	err := ns.Do(func() error {
		link, err := net.InterfaceByName(peerLink)
		if err != nil {
			return err
		}
		// SOCK_DGRAM: without the link-layer header.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		t.file = os.NewFile(uintptr(fd), "tap")
		// Best effort: with the smaller default buffer a flood may go uncounted.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tapBuffer)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: link.Index})
	})
	if err != nil {
		if t.file != nil {
			err = errors.Join(err, t.file.Close())
		}
		return nil, err
	}
	t.done.Go(t.run)
	return t, nil
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// run empties the socket whenever something arrives, until it is closed.
func (t *tap) run() {
	raw, err := t.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool { // ends with an error at close
		t.drain(int(fd))
		return false
	})
}

// drain takes all packets that have arrived so far.
func (t *tap) drain(fd int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	buf := make([]byte, tapSnap)
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return // EAGAIN: empty
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
			if p, ok := parsePacket(buf[:n]); ok {
				t.seen[p]++
			}
		}
	}
}

// packets returns what was seen so far.
func (t *tap) packets() map[Packet]int {
	if raw, err := t.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { t.drain(int(fd)) }) // closed: the count is final
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[Packet]int, len(t.seen))
	for p, n := range t.seen {
		out[p] = n
	}
	return out
}

func (t *tap) close() {
	_ = t.file.Close()
	t.done.Wait()
}

// parsePacket reads the destination of an IPv4 (RFC 791) or IPv6 (RFC 8200)
// packet. Other protocols, such as ARP, are no packets here.
func parsePacket(b []byte) (Packet, bool) {
	if len(b) < 20 {
		return Packet{}, false
	}
	var p Packet
	var payload []byte
	switch b[0] >> 4 {
	case 4:
		p.Dst = netip.AddrFrom4([4]byte(b[16:20]))
		p.Protocol = b[9]
		if fragment := binary.BigEndian.Uint16(b[6:]) & 0x1fff; fragment == 0 {
			payload = b[min(len(b), int(b[0]&15)*4):]
		}
	case 6:
		if len(b) < 40 {
			return Packet{}, false
		}
		p.Dst = netip.AddrFrom16([16]byte(b[24:40]))
		p.Protocol, payload = skipOptions(b[6], b[40:])
	default:
		return Packet{}, false
	}
	if (p.Protocol == unix.IPPROTO_TCP || p.Protocol == unix.IPPROTO_UDP) && len(payload) >= 4 {
		p.Port = binary.BigEndian.Uint16(payload[2:])
	}
	p.Reset = p.Protocol == unix.IPPROTO_TCP && len(payload) == 20 && payload[13]&4 != 0
	return p, true
}

// skipOptions steps over the option headers of IPv6: hop-by-hop, routing, destination.
func skipOptions(next uint8, b []byte) (uint8, []byte) {
	for next == unix.IPPROTO_HOPOPTS || next == unix.IPPROTO_ROUTING || next == unix.IPPROTO_DSTOPTS {
		if len(b) < 8 {
			return next, nil
		}
		size := (int(b[1]) + 1) * 8
		next, b = b[0], b[min(len(b), size):]
	}
	return next, b
}
