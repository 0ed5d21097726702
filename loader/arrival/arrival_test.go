// SPDX-License-Identifier: Apache-2.0

package arrival

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
	"testing"
)

// TestSequence reads saved SYNs as the kernel has them: from the network header on.
func TestSequence(t *testing.T) {
	tcp := []byte{0x80, 0x01, 0x01, 0xbb, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0}
	ip4 := func(words int) []byte {
		h := make([]byte, words*4)
		h[0] = 4<<4 | byte(words)
		return h
	}
	ip6 := func(next byte) []byte {
		h := make([]byte, 40)
		h[0], h[6] = 6<<4, next
		return h
	}
	for _, c := range []struct {
		name string
		syn  []byte
		want uint32 // 0: errSYN
	}{
		{"IPv4", slices.Concat(ip4(5), tcp), 0xdeadbeef},
		{"IPv4 with options", slices.Concat(ip4(7), tcp), 0xdeadbeef},
		{"IPv6", slices.Concat(ip6(6), tcp), 0xdeadbeef},
		{"IPv6 with an extension header", slices.Concat(ip6(0), make([]byte, 8), tcp), 0},
		{"nothing", nil, 0},
		{"IPv4, cut off", slices.Concat(ip4(5), tcp[:7]), 0},
		{"IPv4 with options, cut off", slices.Concat(ip4(15), tcp[:4]), 0},
		{"IPv6, cut off", ip6(6)[:6], 0},
		{"IPv6 without TCP", ip6(6), 0},
	} {
		got, err := sequenceOf(c.syn)
		if got != c.want || errors.Is(err, errSYN) != (c.want == 0) {
			t.Errorf("%s: %#x, %v, want %#x", c.name, got, err, c.want)
		}
	}
}

func TestQuestionToken(t *testing.T) {
	for question, want := range map[string]uint32{"\x12\x34\x01\x00rest": 0x12340100, "\x12\x34\x01\x00": 0x12340100, "\x12\x34\x01": 0, "": 0} {
		if got := QuestionToken([]byte(question)); got != want {
			t.Errorf("%q: %#x, want %#x", question, got, want)
		}
	}
}

// TestSavedSYN asks the kernel for the SYNs of real connections, and for that of one
// whose listener saved none.
func TestSavedSYN(t *testing.T) {
	for network, addr := range map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"} {
		for _, saves := range []bool{true, false} {
			var lc net.ListenConfig
			lc.SetMultipathTCP(false)
			lc.Control = func(_, _ string, c syscall.RawConn) (err error) {
				if !saves {
					return nil
				}
				cerr := c.Control(func(fd uintptr) { err = SaveSYN(fd) })
				return errors.Join(err, cerr)
			}
			ln, err := lc.Listen(context.Background(), network, addr)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			client, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			conn, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := synToken(conn.(*net.TCPConn)); (err == nil) != saves {
				t.Errorf("%s, saved: %t: %v", network, saves, err)
			}
			// On loopback the address alone tells it.
			a, err := Of(conn.(*net.TCPConn))
			if err != nil || a.Token != 0 || a.Src.String() != client.LocalAddr().String() || !a.Local.IsLoopback() {
				t.Errorf("%s: %+v, %v", network, a, err)
			}
		}
	}
}
