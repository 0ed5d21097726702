// SPDX-License-Identifier: Apache-2.0

package peek

import (
	"bytes"
	"crypto/tls"
	"slices"
	"testing"
)

func tlsRecord(kind byte, data string) []byte {
	return append([]byte{kind, 3, 3, byte(len(data) >> 8), byte(len(data))}, data...)
}

// secondCases are what may follow a hello for www.example.com.
func secondCases(t testing.TB) map[string]struct {
	early bool
	b     []byte
	want  Judgement
} {
	named := func(name string) []byte { return helloBytes(t, &tls.Config{ServerName: name}) }
	same, other, none := named("www.example.com"), named("evil.example.com"), helloBytes(t, &tls.Config{})
	ccs, alert := tlsRecord(20, "\x01"), tlsRecord(21, "\x01\x5a")
	data, much := tlsRecord(23, "data"), tlsRecord(23, string(bytes.Repeat([]byte("e"), 9000)))
	return map[string]struct {
		early bool
		b     []byte
		want  Judgement
	}{
		"nothing":                                   {false, nil, Undecided},
		"data":                                      {false, data, Settled},
		"ccs, data":                                 {false, slices.Concat(ccs, data), Settled},
		"ccs alone":                                 {false, ccs, Undecided},
		"client_key_exchange":                       {false, tlsRecord(22, "\x10\x00\x00\x02ab"), Settled},
		"certificate":                               {false, tlsRecord(22, "\x0b\x00\x00\x03abc"), Settled},
		"resumed: an encrypted finished":            {false, slices.Concat(ccs, tlsRecord(22, "\xa7\x01encrypted")), Settled},
		"another handshake message in clear":        {false, tlsRecord(22, "\x05\x00\x00\x00"), Refused},
		"the same name":                             {false, slices.Concat(ccs, same), Settled},
		"the same name in capitals":                 {false, named("WWW.Example.COM"), Settled},
		"the same name in pieces":                   {false, slices.Concat(ccs, rerecord(same, 7)), Settled},
		"another name":                              {false, slices.Concat(ccs, other), Refused},
		"another name at once":                      {false, other, Refused},
		"another name in pieces":                    {false, slices.Concat(ccs, rerecord(other, 5)), Refused},
		"another name behind an alert":              {false, slices.Concat(alert, ccs, other), Refused},
		"an alert between pieces":                   {false, slices.Concat(rerecord(other, 900)[:905], alert, other), Refused},
		"no name":                                   {false, slices.Concat(ccs, none), Refused},
		"data behind the hello that has none of it": {true, slices.Concat(ccs, much, other), Refused},
		"early data, the same name":                 {true, slices.Concat(ccs, much, same), Settled},
		"early data that was accepted":              {true, slices.Concat(ccs, bytes.Repeat(much, 9)), Settled},
		"early data within a hello":                 {true, slices.Concat(rerecord(other, 900)[:905], much, rerecord(other, 900)[905:]), Refused},
		"no TLS":                                    {false, []byte("GET / HTTP/1.1\r\n"), Refused},
		"an empty handshake record":                 {false, tlsRecord(22, ""), Refused},
	}
}

func TestSecond(t *testing.T) {
	for name, c := range secondCases(t) {
		for _, step := range []int{1 << 20, 1, 3, 100} {
			s := NewSecond(Hello{SNI: "www.example.com", HasSNI: true, EarlyData: c.early})
			got := Undecided
			for b := c.b; len(b) > 0 && got == Undecided; {
				n := min(step, len(b))
				got = s.Read(b[:n])
				b = b[n:]
			}
			if got != c.want {
				t.Errorf("%s, %d bytes at a time: %d, want %d", name, step, got, c.want)
			}
		}
	}
}

func TestSecondWithoutName(t *testing.T) {
	s := NewSecond(Hello{})
	if got := s.Read(helloBytes(t, &tls.Config{})); got != Settled {
		t.Errorf("no name in either: %d", got)
	}
	s = NewSecond(Hello{})
	if got := s.Read(helloBytes(t, &tls.Config{ServerName: "www.example.com"})); got != Refused {
		t.Errorf("a name in the second only: %d", got)
	}
}

// FuzzSecond: however the bytes are cut, the judgement is the same, and what is
// settled never holds a hello with another name before.
func FuzzSecond(f *testing.F) {
	for _, c := range secondCases(f) {
		f.Add(c.early, c.b, 3)
	}
	f.Fuzz(func(t *testing.T, early bool, b []byte, step int) {
		h := Hello{SNI: "www.example.com", HasSNI: true, EarlyData: early}
		whole := NewSecond(h).Read(b)
		s := NewSecond(h)
		got := Undecided
		for rest := b; len(rest) > 0 && got == Undecided; {
			n := min(1+step&0xff, len(rest))
			got = s.Read(rest[:n])
			rest = rest[n:]
		}
		if got != whole && !early { // where early data ends depends on the cut
			t.Errorf("%d in pieces of %d, %d in one", got, 1+step&0xff, whole)
		}
	})
}
