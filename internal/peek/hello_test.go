// SPDX-License-Identifier: Apache-2.0

package peek

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/peek/peektest"
)

// helloBytes returns the first flight that crypto/tls sends with c.
func helloBytes(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	sent, err := peektest.ClientHello(c)
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

func manyALPN(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = strings.Repeat("p", 200) + string(rune('a'+i%26))
	}
	return list
}

func configs() map[string]*tls.Config {
	return map[string]*tls.Config{
		"default": {ServerName: "www.example.com"},
		"rsa":     {ServerName: "www.example.com", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}},
		"classic": {ServerName: "a.b", CurvePreferences: []tls.CurveID{tls.X25519}},
		"alpn":    {ServerName: "www.example.com", NextProtos: []string{"h2", "http/1.1"}},
		"big":     {ServerName: "www.example.com", NextProtos: manyALPN(150)},
		"no-sni":  {},
		"upper":   {ServerName: "WWW.Example.COM"},
	}
}

func TestClientHello(t *testing.T) {
	for name, c := range configs() {
		b := helloBytes(t, c)
		h, st := ClientHello(b)
		want := Hello{SNI: c.ServerName, HasSNI: c.ServerName != "", ALPN: c.NextProtos, Wire: len(b)}
		if st != OK || !reflect.DeepEqual(h, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, h, st, want)
		}
	}
	if n := len(helloBytes(t, configs()["default"])); n < 1200 {
		t.Errorf("the default hello has %d bytes: no post-quantum key share was tried", n)
	}
}

func TestClientHelloEverySplit(t *testing.T) {
	for _, name := range []string{"default", "rsa", "alpn"} {
		b := helloBytes(t, configs()[name])
		for n := range b {
			if _, st := ClientHello(b[:n]); st != More {
				t.Fatalf("%s: %v after %d of %d bytes", name, st, n, len(b))
			}
		}
	}
}

// rerecord cuts the one record in b into records of at most n bytes.
func rerecord(b []byte, n int) []byte {
	var out []byte
	for body := b[recordHeader:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, b[0], b[1], b[2], byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

func TestClientHelloOverRecords(t *testing.T) {
	b := helloBytes(t, configs()["alpn"])
	want, _ := ClientHello(b)
	for _, n := range []int{1, 2, 3, 4, 5, 100, len(b) / 2, len(b) - recordHeader - 1} {
		split := rerecord(b, n)
		want.Wire = len(split)
		if h, st := ClientHello(append(split, 20, 3, 3)); st != OK || !reflect.DeepEqual(h, want) {
			t.Errorf("records of %d: %+v, %v", n, h, st)
		}
		for k := 0; k < len(split); k += 7 {
			if _, st := ClientHello(split[:k]); st != More {
				t.Fatalf("records of %d: %v after %d bytes", n, st, k)
			}
		}
	}
}

// vec16 and vec8 are TLS vectors with a length of two bytes and one.
func vec16(parts ...string) string {
	s := strings.Join(parts, "")
	return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s
}

func vec8(s string) string { return string([]byte{byte(len(s))}) + s }

func ext(id uint16, data string) string {
	return string([]byte{byte(id >> 8), byte(id)}) + vec16(data)
}

func sni(name string) string { return ext(extServerName, vec16("\x00", vec16(name))) }

// handmade builds a hello in one record around a list of extensions.
func handmade(extensions ...string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + vec8("") + vec16("\x13\x01") + vec8("\x00") + vec16(extensions...)
	msg := string([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}) + body
	return []byte("\x16\x03\x01" + vec16(msg))
}

func TestClientHelloExtensions(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want Hello
		st   HelloStatus
	}{
		{"sni", handmade(sni("a.example")), Hello{SNI: "a.example", HasSNI: true}, OK},
		{"grease around it", handmade(ext(0x0a0a, ""), sni("a.example"), ext(0xfafa, "x")), Hello{SNI: "a.example", HasSNI: true}, OK},
		{"ech", handmade(ext(extECH, "x"), sni("outer.example")), Hello{SNI: "outer.example", HasSNI: true, ECH: true}, OK},
		{"address as name", handmade(sni("192.0.2.1")), Hello{SNI: "192.0.2.1", HasSNI: true}, OK},
		{"no extension", handmade(), Hello{}, OK},
		{"two server_name extensions", handmade(sni("a.example"), sni("a.example")), Hello{}, Malformed},
		{"unknown extension twice", handmade(ext(0x1234, ""), ext(0x1234, "")), Hello{}, Malformed},
		{"two host_names", handmade(ext(0, vec16("\x00", vec16("a.example"), "\x00", vec16("b.example")))), Hello{}, Malformed},
		{"unknown name type", handmade(ext(0, vec16("\x01", vec16("a.example")))), Hello{}, Malformed},
		{"unknown name type after", handmade(ext(0, vec16("\x00", vec16("a.example"), "\x01", vec16("b.example")))), Hello{}, Malformed},
		{"empty name", handmade(sni("")), Hello{}, Malformed},
		{"empty list", handmade(ext(0, vec16())), Hello{}, Malformed},
		{"empty extension", handmade(ext(0, "")), Hello{}, Malformed},
		{"bytes after the list", handmade(ext(0, vec16("\x00", vec16("a.example"))+"x")), Hello{}, Malformed},
		{"NUL", handmade(sni("a.example\x00.evil")), Hello{}, Malformed},
		{"space", handmade(sni("a.example ")), Hello{}, Malformed},
		{"newline", handmade(sni("a.example\n")), Hello{}, Malformed},
		{"UTF-8", handmade(sni("bücher.example")), Hello{}, Malformed},
		{"dot of the root", handmade(sni("a.example.")), Hello{SNI: "a.example", HasSNI: true}, OK},
		{"two dots at the end", handmade(sni("a.example..")), Hello{}, Malformed},
		{"a dot alone", handmade(sni(".")), Hello{}, Malformed},
		{"longest name", handmade(sni(strings.Repeat("a", 255))), Hello{SNI: strings.Repeat("a", 255), HasSNI: true}, OK},
		{"too long", handmade(sni(strings.Repeat("a", 256))), Hello{}, Malformed},
		{"empty alpn", handmade(ext(extALPN, vec16())), Hello{}, Malformed},
		{"empty protocol", handmade(ext(extALPN, vec16(vec8("h2"), vec8("")))), Hello{}, Malformed},
		{"extension past the end", handmade("\x00\x00\x00\x09abc"), Hello{}, Malformed},
	}
	for _, tt := range tests {
		h, st := ClientHello(tt.in)
		h.Wire = 0
		if st != tt.st || !reflect.DeepEqual(h, tt.want) {
			t.Errorf("%s: %+v, %v; want %+v, %v", tt.name, h, st, tt.want, tt.st)
		}
	}
}

func TestClientHelloRecords(t *testing.T) {
	good := handmade(sni("a.example"))
	mutate := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	alert := []byte{21, 3, 1, 0, 2, 1, 0}
	tests := []struct {
		name string
		in   []byte
		want HelloStatus
	}{
		{"nothing", nil, More},
		{"other record", alert, Malformed},
		{"other version", mutate(func(b []byte) []byte { b[1] = 2; return b }), Malformed},
		{"empty record first", append([]byte{22, 3, 1, 0, 0}, good...), Malformed},
		{"empty record between", append(rerecord(good, 20)[:25], append([]byte{22, 3, 1, 0, 0}, rerecord(good, 20)[25:]...)...), Malformed},
		{"alert between", append(rerecord(good, 20)[:25], append(alert, rerecord(good, 20)[25:]...)...), Malformed},
		{"record over 2^14", []byte{22, 3, 1, 0x40, 1}, Malformed},
		{"server hello", mutate(func(b []byte) []byte { b[5] = 2; return b }), Malformed},
		{"early data after", append(bytes.Clone(good), 23, 3, 3, 0, 1, 0), OK},
		{"second message in the record", mutate(func(b []byte) []byte {
			n := len(b) - recordHeader + 4
			b[3], b[4] = byte(n>>8), byte(n)
			return append(b, 1, 0, 0, 0)
		}), Malformed},
		{"over 64 KiB", []byte{22, 3, 1, 0, 4, 1, 1, 0, 0}, Malformed},
		{"compression missing", mutate(func(b []byte) []byte { b[recordHeader+4+2+32+1+4] = 0; return b }), Malformed},
	}
	for _, tt := range tests {
		if _, st := ClientHello(tt.in); st != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, st, tt.want)
		}
	}
}

var errSeen = errors.New("hello seen")

// serverView is what crypto/tls, as a server, reads from b.
func serverView(b []byte) (hello *tls.ClientHelloInfo, err error) {
	c := &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = h
		return nil, errSeen
	}}
	if err = tls.Server(&replay{r: bytes.NewReader(b)}, c).Handshake(); errors.Is(err, errSeen) {
		err = nil
	}
	return hello, err
}

// replay is a net.Conn that reads from r and writes nowhere. A handshake asks
// for nothing else.
type replay struct {
	net.Conn
	r io.Reader
}

func (c *replay) Read(p []byte) (int, error)  { return c.r.Read(p) }
func (c *replay) Write(p []byte) (int, error) { return len(p), nil }

// FuzzClientHello holds that no hello is read in another way than crypto/tls
// reads it: what we accept and it accepts has one name for both.
func FuzzClientHello(f *testing.F) {
	for _, c := range configs() {
		b := helloBytes(f, c)
		f.Add(b)
		if len(b) < 4096 {
			f.Add(rerecord(b, 40))
		}
	}
	for _, s := range hostile.Spellings() {
		f.Add(handmade(sni(s.Text)))
	}
	f.Add(handmade(sni("a.example"), ext(extECH, "x")))
	f.Add(handmade(sni("a.example"), sni("b.example")))
	f.Add(handmade(ext(0, vec16("\x00", vec16("a.example"), "\x01", vec16("b.example")))))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, st := ClientHello(b)
		if st != OK {
			return
		}
		if h.HasSNI != (h.SNI != "") {
			t.Fatalf("HasSNI %v with name %q", h.HasSNI, h.SNI)
		}
		theirs, err := serverView(b)
		if err != nil || theirs == nil {
			return
		}
		if theirs.ServerName != h.SNI {
			t.Fatalf("we read %q, crypto/tls %q", h.SNI, theirs.ServerName)
		}
		if len(h.ALPN) > 0 && !reflect.DeepEqual(theirs.SupportedProtos, h.ALPN) {
			t.Fatalf("we read %q, crypto/tls %q", h.ALPN, theirs.SupportedProtos)
		}
	})
}

// TestServerView keeps the differential honest: crypto/tls does read these.
func TestServerView(t *testing.T) {
	for name, c := range configs() {
		info, err := serverView(helloBytes(t, c))
		if err != nil || info == nil || info.ServerName != c.ServerName {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func BenchmarkClientHello(b *testing.B) {
	in := helloBytes(b, configs()["alpn"])
	b.ReportAllocs()
	for b.Loop() {
		if _, st := ClientHello(in); st != OK {
			b.Fatal(st)
		}
	}
}
