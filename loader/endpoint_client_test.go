// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

// connectOddly connects with the first data in the SYN (TCP Fast Open), or
// without waiting, and echoes.
func connectOddly(addr netip.AddrPort, how string) result {
	typ := unix.SOCK_STREAM
	if how == "nonblock" {
		typ |= unix.SOCK_NONBLOCK
	}
	fd, sa, err := socket(addr, typ, false)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	if how == "fastopen" {
		err = unix.Sendto(fd, []byte("hello"), unix.MSG_FASTOPEN, sa)
	} else if err = unix.Connect(fd, sa); errors.Is(err, unix.EINPROGRESS) {
		if err = wait(fd, unix.POLLOUT); err == nil {
			_, err = unix.Write(fd, []byte("hello"))
		}
	}
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	r := result{Peer: peer(fd)}
	if err := wait(fd, unix.POLLIN); err != nil {
		return result{Errno: errnoName(err)}
	}
	buf := make([]byte, 64)
	n, _, err := receive(fd, buf)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	r.Data = string(buf[:n])
	return r
}

// wait is poll(2) for three seconds.
func wait(fd int, events int16) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 3000)
		switch {
		case err == unix.EINTR:
		case err == nil && n == 0:
			return unix.ETIMEDOUT
		default:
			return err
		}
	}
}

// connectMany makes connections one after the other and counts by the first
// byte that the servers say, as JSON in Data.
func connectMany(addr netip.AddrPort, count string) result {
	n, _ := strconv.Atoi(count)
	said := map[string]int{}
	for range n {
		fd, sa, err := socket(addr, unix.SOCK_STREAM, false)
		if err == nil {
			err = unix.Connect(fd, sa)
		}
		buf := make([]byte, 1)
		if err == nil {
			_, _, err = receive(fd, buf)
		}
		unix.Close(fd)
		if err != nil {
			return result{Errno: errnoName(err)}
		}
		said[string(buf)]++
	}
	out, _ := json.Marshal(said) // a map of integers
	return result{Data: string(out)}
}

// sendMany sends datagrams from one unconnected socket and waits for each
// answer. Data counts, as JSON, whom the answers came from.
func sendMany(addr netip.AddrPort, count string) result {
	n, _ := strconv.Atoi(count)
	fd, sa, err := socket(addr, unix.SOCK_DGRAM, false)
	if err != nil {
		return result{Errno: errnoName(err)}
	}
	defer unix.Close(fd)
	from := map[string]int{}
	buf := make([]byte, 64)
	for range n {
		if err := unix.Sendto(fd, []byte("hello"), 0, sa); err != nil {
			return result{Errno: errnoName(err)}
		}
		_, who, err := receive(fd, buf)
		if err != nil {
			return result{Errno: errnoName(err)}
		}
		from[sockaddr(who)]++
	}
	out, _ := json.Marshal(from) // a map of integers
	return result{Data: string(out)}
}
