// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// result is what a client process saw.
type result struct {
	Errno string
	Peer  string
	From  string
	Data  string
}

// client runs in a process of its own, inside the captured cgroup.
func client(op string, args []string) result {
	addr := netip.MustParseAddrPort(args[0])
	fail := func(err error) result { return result{Errno: errnoName(err)} }
	switch op {
	case "tcp", "tcp-mapped", "udp", "udp-mapped":
		typ := unix.SOCK_STREAM
		if op[:3] == "udp" {
			typ = unix.SOCK_DGRAM
		}
		fd, sa, err := socket(addr, typ, op[3:] == "-mapped")
		if err != nil {
			return fail(err)
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, sa); err != nil {
			return fail(err)
		}
		r := result{Peer: peer(fd)}
		if _, err := unix.Write(fd, []byte("hello")); err != nil {
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
	case "sendto", "sendto-mapped", "sendto-routed":
		fd, sa, err := socket(addr, unix.SOCK_DGRAM, op == "sendto-mapped")
		if err != nil {
			return fail(err)
		}
		defer unix.Close(fd)
		if op == "sendto-routed" {
			if err := sourceRoute(fd, netip.MustParseAddr(args[1])); err != nil {
				return result{Errno: "setsockopt " + errnoName(err)}
			}
		}
		if err := unix.Sendto(fd, []byte("hello"), 0, sa); err != nil {
			return fail(err)
		}
		buf := make([]byte, 64)
		n, from, err := receive(fd, buf)
		if err != nil {
			return fail(err)
		}
		return result{Data: string(buf[:n]), From: sockaddr(from)}
	case "syn": // does not wait for an answer
		fd, sa, err := socket(addr, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, false)
		if err == nil {
			err = unix.Connect(fd, sa)
			unix.Close(fd)
		}
		return fail(err)
	case "shove":
		if err := shove(addr, args[1]); err != nil {
			return fail(err)
		}
		return result{}
	case "fastopen", "nonblock":
		return connectOddly(addr, op)
	case "device":
		return byDevice(addr, args[1], args[2:])
	case "many-connects":
		return connectMany(addr, args[1])
	case "many-datagrams":
		return sendMany(addr, args[1])
	case "serve":
		return serveOnce(addr, args[1:])
	case "hello":
		return sendHello(addr, args[1:])
	case "greeted":
		return sendGreeted(addr)
	case "bound":
		return bound(addr, args[1])
	case "refused-many":
		return refusedMany(addr, args[1])
	case "answering":
		return answering(addr)
	case "hoard-tcp":
		return hoardTCP(addr, args[1:])
	case "hoard":
		return hoard(addr, args[1:])
	case "from-tcp":
		return from(unix.SOCK_STREAM, addr, args[1:])
	case "from-udp":
		return from(unix.SOCK_DGRAM, addr, args[1:])
	case "shadowed":
		return shadowed(addr, args[1:])
	case "frame":
		return sendFrame(addr, args[1])
	case "hold":
		return hold(addr, unix.SOCK_STREAM, false)
	case "hold-udp", "hold-udp-mapped":
		return hold(addr, unix.SOCK_DGRAM, op == "hold-udp-mapped")
	case "steps-tcp":
		return steps(addr, unix.SOCK_STREAM)
	case "steps-udp":
		return steps(addr, unix.SOCK_DGRAM)
	case "model":
		return drive()
	case "join":
		return join(addr.Addr())
	case "knock":
		return knock(addr, args[1:])
	case "socket":
		var nums [3]int
		for i, a := range args[1:4] {
			nums[i], _ = strconv.Atoi(a)
		}
		fd, err := unix.Socket(nums[0], nums[1], nums[2])
		if err != nil {
			return fail(err)
		}
		unix.Close(fd)
	case "bind":
		fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
		if err != nil {
			return fail(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, sa); err != nil {
			return fail(err)
		}
	}
	return result{}
}

// receive is recvfrom(2), which on a socket with a timeout is not restarted
// after a signal (signal(7)): the Go runtime sends some on slow machines.
func receive(fd int, buf []byte) (n int, from unix.Sockaddr, err error) {
	for {
		if n, from, err = unix.Recvfrom(fd, buf, 0); err != unix.EINTR {
			return n, from, err
		}
	}
}

func socket(addr netip.AddrPort, typ int, mapped bool) (int, unix.Sockaddr, error) {
	var sa unix.Sockaddr
	family := unix.AF_INET
	if addr.Addr().Is6() || mapped {
		sa = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: addr.Addr().As16()}
		family = unix.AF_INET6
	} else {
		sa = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	}
	fd, err := unix.Socket(family, typ|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 3})
	}
	return fd, sa, err
}

func peer(fd int) string {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return err.Error()
	}
	return sockaddr(sa)
}

// sockaddr prints addresses unmapped, so that v4 and v4-mapped compare equal.
func sockaddr(sa unix.Sockaddr) string {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String()
	}
	return ""
}

func errnoName(err error) string {
	if e, ok := errors.AsType[unix.Errno](err); ok {
		return unix.ErrnoName(e)
	}
	return err.Error()
}
