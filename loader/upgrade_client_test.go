// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// steps is a connection that does what each line of its input says and says
// how it went: "ping" and "hello NAME" are echoed; "half NAME" sends the first
// half of a hello, "rest NAME" the other, with the echo of both.
func steps(addr netip.AddrPort, typ int) result {
	fd, sa, err := socket(addr, typ, false)
	if err == nil && typ == unix.SOCK_STREAM {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil { // a cut is told again when TCP sends again, ever more seldom
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60})
	}
	if err == nil {
		err = unix.Connect(fd, sa)
	}
	if err != nil {
		say(result{Errno: errnoName(err)})
		return result{}
	}
	defer unix.Close(fd)
	say(result{Peer: peer(fd)})
	var sent []byte // what was not echoed yet
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, name, _ := strings.Cut(in.Text(), " ")
		data := record(23, []byte("ping"))
		if word != "ping" {
			data = fixedHello(name)
		}
		switch half := len(data) / 2; word {
		case "half":
			data = data[:half]
		case "rest":
			data = data[half:]
		}
		sent = append(sent, data...)
		if _, err := unix.Write(fd, data); err != nil {
			say(result{Errno: errnoName(err)})
			continue
		}
		r := readBack(fd, sent)
		sent = nil
		r.Peer = peer(fd)
		say(r)
	}
	return result{}
}

// fixedHello is the same hello each time.
func fixedHello(name string) []byte {
	h := firstBytes("hello", name)
	for i := 11; i < 43; i++ { // the random bytes
		h[i] = 7
	}
	return h
}

func readBack(fd int, want []byte) result {
	var got []byte
	buf := make([]byte, 1<<14)
	for len(got) < len(want) {
		n, _, err := receive(fd, buf)
		if err != nil {
			return result{Errno: errnoName(err)}
		}
		if n == 0 {
			return result{Errno: "EOF"}
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, want) {
		return result{Errno: "the echo differs"}
	}
	return result{Data: "echoed"}
}

// knock tries again and again, until its input ends, to reach addr, which is
// open, over TCP, and the others, which are not, over TCP and UDP. It says what
// went wrong first, and how often it went right.
func knock(addr netip.AddrPort, closed []string) result {
	var stop atomic.Bool
	go func() {
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		stop.Store(true)
	}()
	say(result{Data: "ready"})
	rounds := 0
	for ; !stop.Load(); rounds++ {
		if r := client("tcp", []string{addr.String()}); r.Data != "hello" {
			return result{Errno: fmt.Sprintf("round %d: the open address: %+v", rounds, r)}
		}
		for _, c := range closed {
			if err := attempt(netip.MustParseAddrPort(c), unix.SOCK_STREAM); !errors.Is(err, unix.ECONNREFUSED) {
				return result{Errno: fmt.Sprintf("round %d: connect %s: %v", rounds, c, err)}
			}
			if err := attempt(netip.MustParseAddrPort(c), unix.SOCK_DGRAM); !errors.Is(err, unix.EPERM) {
				return result{Errno: fmt.Sprintf("round %d: send to %s: %v", rounds, c, err)}
			}
		}
	}
	return result{Data: fmt.Sprint(rounds)}
}

func attempt(addr netip.AddrPort, typ int) error {
	fd, sa, err := socket(addr, typ, false)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if typ == unix.SOCK_DGRAM {
		return unix.Sendto(fd, []byte("leak"), 0, sa)
	}
	return unix.Connect(fd, sa)
}
