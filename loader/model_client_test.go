// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"encoding/binary"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// driven is a socket that does what it is told, whatever comes of it.
type driven struct {
	fd     int
	mapped bool
	six    bool
}

// drive reads lines of operations, parted by semicolons, and says "done" for each
// line.
func drive() result {
	var d driven
	onFirstCPU()
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		for op := range strings.SplitSeq(in.Text(), ";") {
			d.do(strings.Fields(op))
		}
		say(result{Data: "done"})
	}
	return result{}
}

// onFirstCPU keeps the thread on one CPU: what two threads send is in order on the
// wire only if it passes one CPU's queue.
func onFirstCPU() {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(0)
	_ = unix.SchedSetaffinity(0, &set) // where there is no CPU 0 order is by luck
}

// do is one operation. Its error is of no interest: what leaves is counted on the
// wire.
func (d *driven) do(op []string) {
	if len(op) == 0 {
		return
	}
	arg := func(i int) string {
		if i < len(op) {
			return op[i]
		}
		return ""
	}
	data := []byte("LEAK")
	switch op[0] {
	case "new":
		d.open(arg(1), arg(2))
	case "connect":
		_ = unix.Connect(d.fd, d.sockaddr(arg(1)))
	case "unspec": // disconnects
		d.rawConnect([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	case "family": // a connect() that the kernel refuses behind the hook
		d.rawConnect(d.strange(arg(1)))
	case "sendto":
		_ = unix.Sendto(d.fd, data, 0, d.sockaddr(arg(1)))
	case "more": // corked
		_ = unix.Sendto(d.fd, data, unix.MSG_MORE, d.sockaddr(arg(1)))
	case "moresend":
		_, _ = unix.SendmsgN(d.fd, data, nil, nil, unix.MSG_MORE)
	case "send":
		_, _ = unix.Write(d.fd, data)
	case "cmsg": // by an interface and a source of its own choice
		n, _ := strconv.Atoi(arg(2))
		_, _ = unix.SendmsgN(d.fd, data, d.pktinfo(n), d.sockaddr(arg(1)), 0)
	case "receive":
		_, _, _ = unix.Recvfrom(d.fd, make([]byte, 64), unix.MSG_DONTWAIT)
	case "device":
		name := arg(1)
		_ = unix.BindToDevice(d.fd, name)
	case "unicastif":
		n, _ := strconv.Atoi(arg(1))
		if d.six {
			_ = unix.SetsockoptInt(d.fd, unix.SOL_IPV6, unix.IPV6_UNICAST_IF, int(htonl(n)))
		}
		_ = unix.SetsockoptInt(d.fd, unix.SOL_IP, 50, int(htonl(n))) // IP_UNICAST_IF
	case "ttl":
		n, _ := strconv.Atoi(arg(1))
		_ = unix.SetsockoptInt(d.fd, unix.SOL_IP, unix.IP_TTL, n)
	case "bind":
		_ = unix.Bind(d.fd, d.sockaddr(arg(1)))
	}
}

func htonl(n int) uint32 {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], uint32(n))
	return binary.NativeEndian.Uint32(b[:])
}

func (d *driven) open(typ, family string) {
	if d.fd > 0 {
		unix.Close(d.fd)
	}
	kind, domain := unix.SOCK_DGRAM, unix.AF_INET
	if typ == "tcp" {
		kind = unix.SOCK_STREAM
	}
	d.mapped, d.six = family == "mapped", family != "4"
	if d.six {
		domain = unix.AF_INET6
	}
	d.fd, _ = unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

func (d *driven) sockaddr(to string) unix.Sockaddr {
	a, err := netip.ParseAddrPort(to)
	if err != nil {
		return &unix.SockaddrInet4{}
	}
	if d.six {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: as4(a.Addr())}
}

func (d *driven) rawConnect(sa []byte) {
	_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(d.fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
}

// strange is an address with a family that no socket has.
func (d *driven) strange(to string) []byte {
	a, err := netip.ParseAddrPort(to)
	if err != nil {
		return make([]byte, 28)
	}
	b := make([]byte, 28)
	binary.NativeEndian.PutUint16(b, 99)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if d.six {
		six := a.Addr().As16()
		copy(b[8:], six[:])
		return b
	}
	four := as4(a.Addr())
	copy(b[4:], four[:])
	return b[:16]
}

func (d *driven) pktinfo(index int) []byte {
	if d.six && !d.mapped {
		return unix.PktInfo6(&unix.Inet6Pktinfo{Ifindex: uint32(index)})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(index)})
}
