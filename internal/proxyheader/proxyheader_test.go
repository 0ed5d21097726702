// SPDX-License-Identifier: Apache-2.0

package proxyheader

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// v2 is a header of version 2.
func v2(command, family byte, rest string) string {
	return string(signature) + string([]byte{0x20 | command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

func TestRead(t *testing.T) {
	v4 := "\xc6\x33\x64\x07\x0a\x00\x00\x01\x0f\xa0\x00\x50"
	v6 := "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07" + strings.Repeat("\x00", 15) + "\x01\x0f\xa0\x01\xbb"
	for _, c := range []struct{ in, want, bad string }{
		{"PROXY TCP4 198.51.100.7 10.0.0.1 4000 80\r\n", "198.51.100.7:4000", ""},
		{"PROXY TCP6 2001:db8::7 ::1 4000 443\r\n", "[2001:db8::7]:4000", ""},
		{"PROXY UNKNOWN\r\n", "invalid AddrPort", ""},
		{"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "invalid AddrPort", ""},
		{v2(1, 0x11, v4), "198.51.100.7:4000", ""},
		{v2(1, 0x11, v4+"\x04\x00\x01x"), "198.51.100.7:4000", ""}, // with a field behind
		{v2(1, 0x21, v6), "[2001:db8::7]:4000", ""},
		{v2(0, 0x11, v4), "invalid AddrPort", ""},
		{v2(1, 0x00, ""), "invalid AddrPort", ""},

		{"GET / HTTP/1.1\r\n", "", ErrNone.Error()},
		{"PUT / HTTP/1.1\r\n", "", ErrNone.Error()},
		{"\x16\x03\x01", "", ErrNone.Error()},
		{"\r\nGET / HTTP/1.1\r\nHost: a\r\n", "", ErrNone.Error()},
		{"PROXY TCP4 198.51.100.7 10.0.0.1 4000\r\n", "", "two addresses"},
		{"PROXY TCP4 2001:db8::7 ::1 4000 80\r\n", "", "has the address"},
		{"PROXY TCP6 198.51.100.7 10.0.0.1 4000 80\r\n", "", "has the address"},
		{"PROXY TCP4 198.51.100.7 10.0.0.1 -1 80\r\n", "", "has the address"},
		{"PROXY UDP4 198.51.100.7 10.0.0.1 1 80\r\n", "", "not known"},
		{"PROXY UNKNOWN " + strings.Repeat("x", 200) + "\r\n", "", "too long"},
		{"PROXY TCP4 198", "", "ended within"},
		{v2(1, 0x11, v4)[:20], "", "ended within"},
		{v2(1, 0x11, v4[:4]), "", "too short"},
		{v2(2, 0x11, v4), "", "command 2"},
		{strings.Replace(v2(1, 0x11, v4), "\x21", "\x31", 1), "", "version 3"},
		{v2(1, 0x11, strings.Repeat("x", maxRest+1)), "", "too long"},
		{"", "", "EOF"},
	} {
		const behind = "behind"
		r := iotest.OneByteReader(strings.NewReader(c.in + behind))
		if c.bad == "ended within" || c.bad == "EOF" {
			r = strings.NewReader(c.in)
		}
		src, err := Read(r)
		if c.bad != "" {
			if err == nil || !strings.Contains(err.Error(), c.bad) {
				t.Errorf("%q: %v, %v, want the error %q", c.in, src, err, c.bad)
			}
			continue
		}
		rest, _ := io.ReadAll(r)
		if got := fmt.Sprint(src); err != nil || got != c.want || string(rest) != behind {
			t.Errorf("%q: %s, %v, want %s; left %q", c.in, got, err, c.want, rest)
		}
	}
}

// FuzzRead: no more is read than a header may have.
func FuzzRead(f *testing.F) {
	f.Add([]byte("PROXY TCP4 198.51.100.7 10.0.0.1 4000 80\r\nx"))
	f.Add([]byte(v2(1, 0x11, "\xc6\x33\x64\x07\x0a\x00\x00\x01\x0f\xa0\x00\x50x")))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		src, err := Read(r)
		took := len(in) - r.Len()
		if took > 16+maxRest || err != nil && src.IsValid() {
			t.Fatalf("%d bytes read: %v, %v", took, src, err)
		}
		if errors.Is(err, ErrNone) && took > 16 {
			t.Fatalf("%d bytes read of what is no header", took)
		}
	})
}
