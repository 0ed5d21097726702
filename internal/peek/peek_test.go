// SPDX-License-Identifier: Apache-2.0

package peek

import (
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	tests := []struct {
		in   string
		want Sniffed
	}{
		{"", NeedMore},
		{"\x16", NeedMore},
		{"\x16\x03", TLSHello},
		{"\x16\x03\x01\x00\x05hello", TLSHello},
		{"\x16\x02", Other},
		{"\x80\x2e\x01\x03", Other}, // SSL 2.0 hello
		{"G", NeedMore},
		{"GET", NeedMore},
		{"GET ", HTTP1},
		{"GET / HTTP/1.1\r\n", HTTP1},
		{"get / HTTP/1.1\r\n", HTTP1},
		{"M-SEARCH * HTTP/1.1\r\n", HTTP1},
		{"CONNECT a:443 HTTP/1.1\r\n", HTTP1},
		{" GET /", Other},
		{"\r\nGET /", Other},
		{"P", NeedMore},
		{"PRI * HTTP/2.0\r\n", NeedMore},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", HTTP2},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", HTTP2},
		{"PRI * HTTP/2.1\r\n", HTTP1},
		{"PRI / HTTP/1.1\r\n", HTTP1},
		{"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", Other},
		{"a1 LOGIN x y\r\n", Other},
		{"PING\r\n", Other},
		{strings.Repeat("A", maxMethod), NeedMore},
		{strings.Repeat("A", maxMethod) + " /", HTTP1},
		{strings.Repeat("A", maxMethod+1), Other},
		{"\x00\x00\x00\x2a", Other},
	}
	for _, tt := range tests {
		if got := Classify([]byte(tt.in)); got != tt.want {
			t.Errorf("Classify(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
}

// FuzzClassify checks that an answer is final: once a kind is named, more
// bytes change nothing, and every shorter prefix says the same or NeedMore.
func FuzzClassify(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", string(preface), "\x16\x03\x01", "SSH-2.0-x", "PRI *"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := Classify(b)
		for n := range b {
			if k := Classify(b[:n]); k != NeedMore && k != whole {
				t.Fatalf("%q: %v after %d bytes, %v after all", b, k, n, whole)
			}
		}
	})
}
