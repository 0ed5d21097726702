// SPDX-License-Identifier: Apache-2.0

// Package arrival is how a flow comes to one of egressd's listeners: what tells it
// from others there, and what a listener's socket is set to for that.
package arrival

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arrival is how a flow came to one of egressd's listeners.
type Arrival struct {
	Src netip.AddrPort
	// Local is the address that an accepted connection has here, or the one
	// that the UDP socket is bound to. It tells the way: by loopback, by a gate,
	// or from an interface under the address that was dialled.
	Local netip.Addr
	// LocalPort is the listener's, of an accepted connection.
	LocalPort uint16
	Slot      int // of the UDP port
	// Token tells the flow from others that bear the same source; see
	// Of and QuestionToken.
	Token uint32
}

// Of describes an accepted connection. One that came from another network
// namespace or from an interface is known by the sequence number of its SYN, so
// its listener must have saved that (SaveSYN).
func Of(c *net.TCPConn) (Arrival, error) {
	src := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	a := Arrival{
		Src:   netip.AddrPortFrom(src.Addr().Unmap().WithZone(""), src.Port()),
		Local: local.Addr().Unmap().WithZone(""), LocalPort: local.Port(),
	}
	if a.Local.IsLoopback() {
		return a, nil
	}
	var err error
	a.Token, err = synToken(c)
	return a, err
}

// QuestionToken is the token of a datagram: its first four bytes.
func QuestionToken(datagram []byte) uint32 {
	if len(datagram) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(datagram)
}

// synToken is the sequence number of the SYN that opened a connection.
func synToken(c syscall.Conn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var syn [128]byte // an IPv6 and a TCP header with all options
	size := uint32(len(syn))
	var errno unix.Errno
	cerr := raw.Control(func(fd uintptr) {
		// unix.GetsockoptString ends at the first zero byte.
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_TCP, unix.TCP_SAVED_SYN,
			uintptr(unsafe.Pointer(&syn)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if cerr != nil {
		return 0, cerr
	}
	if errno != 0 {
		return 0, fmt.Errorf("getsockopt TCP_SAVED_SYN: %w", errno)
	}
	return sequenceOf(syn[:min(int(size), len(syn))])
}

var errSYN = errors.New("the saved SYN has no TCP header where it should be")

// sequenceOf reads the sequence number from the network and transport headers of
// a SYN.
func sequenceOf(syn []byte) (uint32, error) {
	if len(syn) == 0 {
		return 0, errSYN
	}
	at := 40 // IPv6 without extension headers, as the kernel programs want it
	if syn[0]>>4 == 4 {
		at = int(syn[0]&0xf) * 4
	} else if len(syn) <= 6 || syn[6] != unix.IPPROTO_TCP {
		return 0, errSYN
	}
	if len(syn) < at+8 {
		return 0, errSYN
	}
	return binary.BigEndian.Uint32(syn[at+4:]), nil
}
