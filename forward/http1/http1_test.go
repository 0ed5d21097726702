// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/egressd/egressd/internal/field"
)

// source is a Source of an io.Reader.
type source struct{ io.Reader }

func (s source) Await(b Buffer) (int, error) {
	n, err := s.Read(b.Get())
	if n == 0 {
		b.Put()
	}
	return n, err
}

func readerOf(r io.Reader, requests bool) *MessageReader {
	return NewMessageReader(source{r}, new(Buffers), requests)
}

// read is what is read of a stream of messages.
type read struct {
	heads   []string
	bodies  []string
	trailer []string
	err     error
}

// readRequests reads until the end, the first error or the last request.
func readRequests(in io.Reader) (all read) {
	r := readerOf(in, true)
	defer r.Free()
	var q RequestHead
	var b Body
	for {
		head, err := r.Head(MaxRequestHead)
		if err == nil {
			err = q.Parse(head)
		}
		if err != nil {
			all.err = err
			return all
		}
		all.heads = append(all.heads, fmt.Sprintf("%s %s 1.%d %q %d close %t continue %t %q", q.Method, q.Target, q.Minor, q.Host, q.Length, q.Close, q.Continue, q.Fields))
		b.Begin(r, q.Length)
		body, err := io.ReadAll(&b)
		all.bodies = append(all.bodies, string(body))
		if all.err = err; err != nil || q.Close {
			return all
		}
		all.trailer = append(all.trailer, fmt.Sprintf("%q", b.Trailer))
	}
}

const start = "POST / HTTP/1.1\r\nHost: h\r\n"

// TestRequests: a head has one reading, or is refused for a reason that is named.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		name, raw string
		err       error
		bodies    string // joined
	}{
		{"plain", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", io.EOF, ""},
		{"lines that end in LF alone", "GET / HTTP/1.1\nHost: h\n\n", io.EOF, ""},
		{"both ends", "GET / HTTP/1.1\r\nHost: h\n\r\n", ErrLineEnd, ""},
		{"a hidden field", "GET / HTTP/1.1\r\nHost: h\r\nX: a\nContent-Length: 5\r\n\r\n", ErrLineEnd, ""},
		{"empty lines before", "\r\n\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", io.EOF, ""},
		{"length", start + "Content-Length: 2\r\n\r\nhi", io.EOF, "hi"},
		{"length behind blanks", start + "Content-Length: \t 2 \r\n\r\nhi", io.EOF, "hi"},
		{"length twice", start + "Content-Length: 2\r\ncontent-length:2\r\n\r\nhi", io.EOF, "hi"},
		{"two bodies", start + "Content-Length: 2\r\n\r\nhi" + start + "Content-Length: 2\r\n\r\nyo", io.EOF, "hi|yo"},
		{"chunks", start + "Transfer-Encoding: Chunked\r\n\r\n2\r\nhi\r\nA;x=\"y\" ;z\r\n0123456789\r\n000\r\nT: x\r\n\r\n", io.EOF, "hi0123456789"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", nil, ""},
		{"HTTP/1.9", "GET / HTTP/1.9\r\nHost: h\r\nConnection: x, CLOSE\r\n\r\n", nil, ""},
		{"a part of a head", "GET / HTTP/1.1\r\nHo", io.ErrUnexpectedEOF, ""},
		{"a part of a body", start + "Content-Length: 3\r\n\r\nhi", io.ErrUnexpectedEOF, "hi"},
		{"a part of a chunk", start + "Transfer-Encoding: chunked\r\n\r\n3\r\nhi", io.ErrUnexpectedEOF, "hi"},

		{"HTTP/2.0", "GET / HTTP/2.0\r\nHost: h\r\n\r\n", ErrVersion, ""},
		{"no version", "GET /\r\nHost: h\r\n\r\n", ErrRequestLine, ""},
		{"lower case version", "GET / http/1.1\r\nHost: h\r\n\r\n", ErrRequestLine, ""},
		{"two blanks", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", ErrRequestLine, ""},
		{"a blank in the target", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", ErrRequestLine, ""},
		{"a method that is none", "GE(T / HTTP/1.1\r\nHost: h\r\n\r\n", ErrRequestLine, ""},
		{"no host", "GET / HTTP/1.1\r\n\r\n", ErrNoHost, ""},
		{"two hosts", "GET / HTTP/1.1\r\nHost: h\r\nHOST: h\r\n\r\n", ErrHosts, ""},
		{"blank before the colon", "GET / HTTP/1.1\r\nHost : h\r\n\r\n", ErrFieldName, ""},
		{"no colon", "GET / HTTP/1.1\r\nHost\r\n\r\n", ErrFieldName, ""},
		{"no name", "GET / HTTP/1.1\r\nHost: h\r\n: x\r\n\r\n", ErrFieldName, ""},
		{"folded", "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", ErrFolded, ""},
		{"NUL", "GET / HTTP/1.1\r\nHost: h\x00\r\n\r\n", ErrFieldValue, ""},
		{"a CR", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n", ErrFieldValue, ""},
		{"two CRs", "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n", ErrFieldValue, ""},
		{"a sign", start + "Content-Length: +2\r\n\r\nhi", ErrLength, ""},
		{"hexadecimal", start + "Content-Length: 0x2\r\n\r\nhi", ErrLength, ""},
		{"no length", start + "Content-Length:\r\n\r\nhi", ErrLength, ""},
		{"2^64", start + "Content-Length: 18446744073709551616\r\n\r\nhi", ErrLength, ""},
		{"a list of lengths", start + "Content-Length: 2, 2\r\n\r\nhi", ErrLength, ""},
		{"two lengths", start + "Content-Length: 2\r\nContent-Length: 02\r\n\r\nhi", ErrLengths, ""},
		{"length and coding", start + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrLengthCoding, ""},
		{"coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ErrCodingOld, ""},
		{"another coding", start + "Transfer-Encoding: gzip, chunked\r\n\r\n", ErrCoding, ""},
		{"identity", start + "Transfer-Encoding: identity\r\n\r\n", ErrCoding, ""},
		{"coding twice", start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCoding, ""},
		{"too much", "GET / HTTP/1.1\r\nX: " + strings.Repeat("x", MaxRequestHead), ErrHeadTooLarge, ""},
		{"as much as there may be", start + "X: " + strings.Repeat("x", MaxRequestHead-len(start)-7) + "\r\n\r\n", io.EOF, ""},

		{"too many options", "GET / HTTP/1.1\r\nConnection: " + strings.Repeat("x,", MaxOptions) + "x\r\n\r\n", ErrOptions, ""},
		{"too many fields", "GET / HTTP/1.1\r\n" + strings.Repeat("x:\r\n", MaxFields+1) + "\r\n", ErrFields, ""},

		{"a size that is none", start + "Transfer-Encoding: chunked\r\n\r\n2x\r\nhi\r\n0\r\n\r\n", ErrChunkSize, ""},
		{"a size and a blank", start + "Transfer-Encoding: chunked\r\n\r\n2 2\r\nhi\r\n0\r\n\r\n", ErrChunkSize, ""},
		{"a size that overflows", start + "Transfer-Encoding: chunked\r\n\r\n8000000000000000\r\nhi", ErrChunkSize, ""},
		{"LF behind a size", start + "Transfer-Encoding: chunked\r\n\r\n2\nhi\r\n0\r\n\r\n", ErrChunkSize, ""},
		{"CR in an extension", start + "Transfer-Encoding: chunked\r\n\r\n2;a\rb\r\nhi\r\n0\r\n\r\n", ErrChunkSize, ""},
		{"more than the size", start + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi!\r\n0\r\n\r\n", ErrChunkEnd, "hi"},
		{"LF behind data", start + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\n0\r\n\r\n", ErrChunkEnd, "hi"},
		{"a long extension", start + "Transfer-Encoding: chunked\r\n\r\n2;" + strings.Repeat("x", MaxChunkLine), ErrChunkLine, ""},
		{"many extensions", start + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\nx\r\n", 100), ErrChunkExcess, strings.Repeat("x", 16)},
		{"single bytes", start + "Transfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 10000) + "0\r\n\r\n", io.EOF, strings.Repeat("x", 10000)},
		{"a long trailer", start + "Transfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("X: y\r\n", MaxTrailer), ErrTrailerTooBig, ""},
		{"a bad trailer", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nX\r\n\r\n", ErrTrailer, ""},
		{"LF in a trailer", start + "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\n", ErrTrailer, ""},
		{"LF behind the last chunk", start + "Transfer-Encoding: chunked\r\n\r\n0\r\n\n", ErrTrailer, ""},
	} {
		got := readRequests(strings.NewReader(tt.raw))
		if !errors.Is(got.err, tt.err) || strings.Join(got.bodies, "|") != tt.bodies {
			t.Errorf("%s: %v %q, want %v %q", tt.name, got.err, got.bodies, tt.err, tt.bodies)
		}
		if bytewise := readRequests(iotest.OneByteReader(strings.NewReader(tt.raw))); !reflect.DeepEqual(got, bytewise) {
			t.Errorf("%s: bytewise %+v, at once %+v", tt.name, bytewise, got)
		}
	}
}

// TestResponses: what origins may answer.
func TestResponses(t *testing.T) {
	for _, tt := range []struct {
		name, method, raw string
		err               error
		length            int64
		close             bool
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", nil, 2, false},
		{"no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n", nil, 2, false},
		{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", nil, Chunked, false},
		{"to the end", "GET", "HTTP/1.1 200 OK\r\n\r\n", nil, ToTheEnd, true},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", nil, 0, false},
		{"204", "GET", "HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n", nil, 0, false},
		{"304", "GET", "HTTP/1.1 304 OK\r\nContent-Length: 9\r\n\r\n", nil, 0, false},
		{"103", "GET", "HTTP/1.1 103 x\r\n\r\n", nil, 0, false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", nil, 2, true},
		{"HTTP/1.0 that stays", "GET", "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\n", nil, 2, false},
		{"close", "GET", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n", nil, 2, true},
		{"length and coding", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n", nil, Chunked, true},
		{"folded", "GET", "HTTP/1.1 200 OK\r\nX: a\r\n\t b\r\nContent-Length: 2\r\n\r\n", nil, 2, false},
		{"mixed line ends", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\n\n", nil, 2, false},

		{"no HTTP", "GET", "220 mail.example ESMTP\r\n\r\n", ErrStatusLine, 0, false},
		{"HTTP/2", "GET", "HTTP/2.0 200 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"letters", "GET", "HTTP/1.1 2x0 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"four digits", "GET", "HTTP/1.1 2000 OK\r\n\r\n", ErrStatusLine, 0, false},
		{"a CR in the reason", "GET", "HTTP/1.1 200 O\rK\r\n\r\n", ErrStatusLine, 0, false},
		{"no colon", "GET", "HTTP/1.1 200 OK\r\nx\r\n\r\n", ErrFieldName, 0, false},
		{"two lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", ErrLengths, 0, false},
		{"negative", "GET", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n", ErrLength, 0, false},
		{"another coding", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", ErrCoding, 0, false},
		{"coding in HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", ErrCoding, 0, false},
	} {
		var r ResponseHead
		err := r.Parse([]byte(tt.raw), tt.method)
		if !errors.Is(err, tt.err) || err == nil && (r.Length != tt.length || r.Close != tt.close) {
			t.Errorf("%s: %v, %d, close %t", tt.name, err, r.Length, r.Close)
		}
		if tt.name == "folded" && r.Fields.Get("x") != "a  \t b" {
			t.Errorf("%q", r.Fields)
		}
	}
}

// TestAsItComes: bytes of a body are there when they have come, and chunks are
// written as they are read.
func TestAsItComes(t *testing.T) {
	in, out := io.Pipe()
	defer in.Close()
	r := readerOf(in, false)
	defer r.Free()
	var b Body
	b.Begin(r, Chunked)
	var c Chunks
	var got []byte
	p := make([]byte, 100)
	parts := make(chan string, 8)
	go func() {
		for part := range parts {
			_, _ = io.WriteString(out, part)
		}
	}()
	defer close(parts)
	for _, part := range []string{"5\r\nab", "c", "de\r\n", "2", "\r\nf", "g\r\n0\r\n\r\n"} {
		parts <- part
		want := strings.Trim(part, "0123456789\r\n")
		if want == "" {
			continue
		}
		n, err := b.Read(p)
		if string(p[:n]) != want || err != nil && !errors.Is(err, io.EOF) {
			t.Fatalf("%q: read %q, %v", part, p[:n], err)
		}
		got = c.Append(got, p[:n], b.Rest())
	}
	if got = c.End(got, nil); string(got) != "5\r\nabcde\r\n2\r\nfg\r\n0\r\n\r\n" || !b.Ended() {
		t.Errorf("written %q, ended %t", got, b.Ended())
	}
}

// TestNoBuffers: a Reader without anything in it has none.
func TestNoBuffers(t *testing.T) {
	r := readerOf(strings.NewReader(start+"Content-Length: 2\r\n\r\nhi"), true)
	var q RequestHead
	head, err := r.Head(MaxRequestHead)
	if err != nil || q.Parse(head) != nil {
		t.Fatal(err)
	}
	var b Body
	b.Begin(r, q.Length)
	if body, err := io.ReadAll(&b); string(body) != "hi" || err != nil {
		t.Errorf("%q, %v", body, err)
	}
	r.Release()
	if r.buf != nil || r.more != nil {
		t.Error("it has a buffer")
	}
}

// asHTTP says whether net/http reads the same of a head.
func asHTTP(t *testing.T, raw []byte, q *RequestHead, h *http.Request) {
	t.Helper()
	length := map[bool]int64{true: -1, false: max(q.Length, 0)}[q.Length == Chunked]
	if h.Method != q.Method || h.RequestURI != q.Target || h.ContentLength != length || (len(h.TransferEncoding) > 0) != (q.Length == Chunked) {
		t.Fatalf("%q: %+v, net/http %+v", raw, q, h)
	}
	if q.Host != h.Host && q.Target[0] == '/' {
		t.Fatalf("%q: host %q, net/http %q", raw, q.Host, h.Host)
	}
	sameFields(t, raw, q.Fields, h.Header)
}

func sameFields(t *testing.T, raw []byte, l field.List, h http.Header) {
	t.Helper()
	for name, values := range l.Map(textproto.CanonicalMIMEHeaderKey) {
		switch name {
		case "Host", "Transfer-Encoding", "Content-Length", "Trailer":
			continue // net/http has them elsewhere
		case "Pragma", "Cache-Control":
			continue // net/http adds to them
		}
		if !reflect.DeepEqual(values, h[name]) {
			t.Fatalf("%q: %s %q, net/http %q", raw, name, values, h[name])
		}
	}
}

// FuzzRequests: what is accepted is read by net/http in the same way, and how the
// bytes come makes no difference. net/http refuses what is none of the codec's
// affairs: targets that are no URL, and announced trailers that it does not like.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\r\n" + start + "Content-Length: 2\r\n\r\nhi" + start + "Transfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n0\r\nT: y\r\n\r\n",
		"POST / HTTP/1.0\nConnection: keep-alive\nContent-Length: 1\n\nx", start + "X: a\r\n b\r\n\r\n", start + "content-length:2\r\ncontent-length: 2\r\n\r\nhi",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		at := readRequests(bytes.NewReader(raw))
		if pieces := readRequests(iotest.OneByteReader(bytes.NewReader(raw))); !reflect.DeepEqual(at, pieces) {
			t.Fatalf("%q: %+v at once, %+v in pieces", raw, at, pieces)
		}
		r := readerOf(bytes.NewReader(raw), true)
		defer r.Free()
		head, err := r.Head(MaxRequestHead)
		var q RequestHead
		if err != nil || q.Parse(head) != nil {
			return
		}
		h, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimLeft(raw, "\r\n"))))
		if err != nil {
			if strings.HasPrefix(err.Error(), "parse ") || strings.Contains(err.Error(), "trailer") || strings.Contains(err.Error(), "invalid method") {
				return
			}
			t.Fatalf("%q is read, and not by net/http: %v", raw, err)
		}
		asHTTP(t, raw, &q, h)
		body, err := io.ReadAll(h.Body)
		if at.err == nil || errors.Is(at.err, io.EOF) || len(at.bodies) > 1 {
			if err != nil || string(body) != at.bodies[0] {
				t.Fatalf("%q: body %q, net/http %q, %v", raw, at.bodies[0], body, err)
			}
		}
	})
}

// FuzzResponses: as FuzzRequests. Folded lines, which net/http joins with one blank,
// are left out.
func FuzzResponses(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.0 200\nX: y\n\nall of it", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 304 x\r\nContent-Length: 3\r\n\r\n",
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, get bool) {
		method := map[bool]string{true: "GET", false: "HEAD"}[get]
		r := readerOf(bytes.NewReader(bytes.Clone(raw)), false)
		defer r.Free()
		head, err := r.Head(MaxResponseHead)
		var p ResponseHead
		if err != nil || p.Parse(head, method) != nil || p.Status < 200 || bytes.Contains(raw, []byte("\n ")) || bytes.Contains(raw, []byte("\n\t")) {
			return
		}
		var b Body
		b.Begin(r, p.Length)
		mine, myErr := io.ReadAll(&b)
		h, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
		if err != nil {
			if strings.Contains(err.Error(), "trailer") {
				return
			}
			t.Fatalf("%q is read, and not by net/http: %v", raw, err)
		}
		sameFields(t, raw, p.Fields, h.Header)
		body, err := io.ReadAll(h.Body)
		if myErr == nil && (err != nil || !bytes.Equal(mine, body)) {
			t.Fatalf("%q: body %q, net/http %q, %v", raw, mine, body, err)
		}
	})
}

const usual = "GET /index.html?a=b HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101\r\n" +
	"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip, br\r\nConnection: keep-alive\r\nCookie: a=b; c=d\r\n\r\n"

func BenchmarkRequest(b *testing.B) {
	var q RequestHead
	head := []byte(usual)
	b.ReportAllocs()
	b.SetBytes(int64(len(head)))
	for b.Loop() {
		if err := q.Parse(head); err != nil {
			b.Fatal(err)
		}
	}
}

// TestNoAllocations: a head costs none, from the bytes of a connection to the bytes
// for another.
func TestNoAllocations(t *testing.T) {
	in := bytes.NewReader(nil)
	r := readerOf(in, true)
	defer r.Free()
	var q RequestHead
	var b Body
	raw, out := []byte(usual), make([]byte, 0, 4096)
	n := testing.AllocsPerRun(100, func() {
		in.Reset(raw)
		head, err := r.Head(MaxRequestHead)
		if err != nil || q.Parse(head) != nil {
			t.Fatal(err)
		}
		b.Begin(r, q.Length)
		out = append(append(append(append(out[:0], q.Method...), ' '), q.Target...), " HTTP/1.1\r\n"...)
		out = AppendFields(out, q.Fields)
	})
	if n > 0 || string(out) != usual {
		t.Errorf("%v allocations; written %q", n, out)
	}
}
