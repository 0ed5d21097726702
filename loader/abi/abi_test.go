// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"testing"
	"unsafe"
)

func TestCommand(t *testing.T) {
	for _, c := range []struct {
		comm []uint8
		want string
	}{
		{[]uint8("curl\x00\x00\x00"), "curl"},
		{[]uint8("curl\x00left over"), "curl"},
		{[]uint8("sixteen letters."), "sixteen letters."}, // no NUL
		{[]uint8{0}, ""},
		{nil, ""},
		{[]uint8("caf\xc3\xa9\x00"), "café"},
	} {
		if got := Command(c.comm); got != c.want {
			t.Errorf("%q: %q, want %q", c.comm, got, c.want)
		}
		signed := unsafe.Slice((*int8)(unsafe.Pointer(unsafe.SliceData(c.comm))), len(c.comm))
		if got := Command(signed); got != c.want {
			t.Errorf("%q, signed: %q, want %q", c.comm, got, c.want)
		}
	}
}

// TestPort: a port in network order has its high byte first in memory.
func TestPort(t *testing.T) {
	for _, p := range []uint16{0, 1, 53, 443, 0x1234, 1<<16 - 1} {
		n := Port(p)
		if b := *(*[2]byte)(unsafe.Pointer(&n)); b != [2]byte{byte(p >> 8), byte(p)} {
			t.Errorf("%d: %v in memory", p, b)
		}
		if Port(n) != p {
			t.Errorf("%d there and back: %d", p, Port(n))
		}
	}
}

func TestNow(t *testing.T) {
	before, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	if after, err := Now(); err != nil || after < before || before == 0 {
		t.Errorf("%d, then %d, %v", before, after, err)
	}
}
