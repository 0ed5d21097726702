// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hostileRequests are requests that must not reach an upstream, and beside each group
// the benign spelling that must. The tests of both versions of HTTP use it: what
// one refuses the other must.
var hostileRequests = []struct {
	name, method, target string
	authority            string // "" is a.example
	good                 bool
	only                 int // the version of HTTP that can say it; 0: both
}{
	{name: "origin form", method: "GET", target: "/x?y=/z", good: true},
	{name: "a percent-encoded #", method: "GET", target: "/a%23b?c=%23", good: true},
	{name: "bytes over 0x7f", method: "GET", target: "/\xc3\xa4", good: true},
	{name: "two slashes", method: "GET", target: "//evil.example/x", good: true},
	{name: "a URL in the path", method: "GET", target: "/http://evil.example/x", good: true},
	{name: "absolute form", method: "GET", target: "http://evil.example/x"},
	{name: "absolute form of the same host", method: "GET", target: "http://a.example/x"},
	{name: "absolute form in capitals", method: "GET", target: "HTTP://evil.example/x"},
	{name: "absolute form of another scheme", method: "GET", target: "ftp://evil.example/x"},
	{name: "authority form", method: "GET", target: "evil.example:80"},
	{name: "opaque form", method: "GET", target: "mailto:x"},
	{name: "no slash", method: "GET", target: "x"},
	{name: "a query alone", method: "GET", target: "?x"},
	{name: "a fragment alone", method: "GET", target: "#x"},
	{name: "a backslash first", method: "GET", target: `\evil.example/x`},
	{name: "asterisk", method: "OPTIONS", target: "*", good: true},
	{name: "asterisk with GET", method: "GET", target: "*"},
	{name: "asterisk and more", method: "OPTIONS", target: "*/x"},
	{name: "fragment", method: "GET", target: "/admin#x"},
	{name: "empty fragment", method: "GET", target: "/admin#"},
	{name: "fragment behind the query", method: "GET", target: "/admin?a#b"},
	{name: "space", method: "GET", target: "/x y"},
	{name: "space and a version", method: "GET", target: "/x HTTP/1.1"},
	{name: "tab", method: "GET", target: "/x\ty"},
	{name: "tab in the query", method: "GET", target: "/x?\ty"},
	{name: "NUL", method: "GET", target: "/x\x00y"},
	{name: "CR", method: "GET", target: "/x\ry"},
	{name: "line end and a field", method: "GET", target: "/x HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /y", only: 2},
	{name: "DEL", method: "GET", target: "/x\x7f"},
	{name: "CONNECT", method: "CONNECT", target: "evil.example:443", only: 1},
	{name: "CONNECT with a path", method: "CONNECT", target: "/x", only: 1},
	{name: "the preface's method", method: "PRI", target: "*"},
	{name: "the preface's method with a path", method: "PRI", target: "/x"},
	{name: "a method with a space", method: "GET /y", target: "/x", only: 2},
	{name: "empty path", method: "GET", target: "", only: 2},
	{name: "authority with a port", method: "GET", target: "/", authority: "a.example:80", good: true},
	{name: "authority in capitals", method: "GET", target: "/", authority: "A.EXAMPLE", good: true},
	{name: "authority with a user", method: "GET", target: "/", authority: "a.example@evil.example"},
	{name: "authority with a path", method: "GET", target: "/", authority: "a.example/evil.example"},
	{name: "authority with a fragment", method: "GET", target: "/", authority: "a.example#evil.example"},
	{name: "authority with a query", method: "GET", target: "/", authority: "a.example?evil.example"},
	{name: "authority with a space", method: "GET", target: "/", authority: "a.example evil.example"},
	{name: "two authorities", method: "GET", target: "/", authority: "a.example,evil.example"},
	{name: "authority with a bad port", method: "GET", target: "/", authority: "a.example:80:80"},
	{name: "authority with NUL", method: "GET", target: "/", authority: "a.example\x00"},
	{name: "authority with a backslash", method: "GET", target: "/", authority: `a.example\evil.example`},
}

// rawOrigin keeps the bytes that it gets. It answers each head, or what answer
// makes of it.
type rawOrigin struct {
	mu   sync.Mutex
	got  bytes.Buffer
	more chan struct{} // something came
}

// newRawOrigin stands for the host; answer is written once for every head.
func (r *rig) newRawOrigin(host, answer string) *rawOrigin {
	o := &rawOrigin{more: make(chan struct{}, 1)}
	r.origin(host, func(nc *net.TCPConn) {
		br, line := bufio.NewReader(nc), ""
		for {
			b, err := br.ReadByte()
			if err != nil {
				return
			}
			o.mu.Lock()
			o.got.WriteByte(b)
			o.mu.Unlock()
			select {
			case o.more <- struct{}{}:
			default:
			}
			if line += string(b); strings.HasSuffix(line, "\r\n\r\n") {
				if strings.Contains(line, " HTTP/1.1\r\n") {
					_, _ = io.WriteString(nc, answer)
				}
				line = ""
			}
		}
	})
	return o
}

// requests counts what a server would take for requests.
func (o *rawOrigin) requests() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Count(o.got.Bytes(), []byte(" HTTP/1.1\r\n"))
}

func (o *rawOrigin) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.got.String()
}

const okAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// last is a good request behind which the connection ends.
const last = "GET /last HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"

// answers sends raw bytes, in parts, and returns the statuses of all answers
// until the connection's end.
func (r *rig) answers(parts ...string) (statuses []int) {
	r.t.Helper()
	nc := r.dial()
	defer nc.Close()
	br := bufio.NewReader(nc)
	for _, p := range parts {
		if _, err := io.WriteString(nc, p); err != nil {
			break // the answer says why
		}
	}
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				r.t.Errorf("%q: the connection stays open behind %v", parts, statuses)
			}
			return statuses
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, resp.StatusCode)
	}
}

func TestHostileTargetsHTTP1(t *testing.T) {
	for _, tt := range hostileRequests {
		if tt.only == 2 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			o := r.newRawOrigin("a.example", okAnswer)
			authority := tt.authority
			if authority == "" {
				authority = "a.example"
			}
			got := r.answers(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", tt.method, tt.target, authority) + last)
			if want := []int{200, 200}; tt.good && (!slices.Equal(got, want) || o.requests() != 2) {
				t.Errorf("answers %v, want %v; the origin got %q", got, want, o)
			}
			if want := []int{400}; !tt.good && (!slices.Equal(got, want) || o.String() != "") {
				t.Errorf("answers %v, want %v and the end; the origin got %q", got, want, o)
			}
		})
	}
}

func TestHostileTargetsHTTP2(t *testing.T) {
	for _, tt := range hostileRequests {
		if tt.only == 1 {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			o := r.newRawOrigin("a.example", okAnswer)
			authority := tt.authority
			if authority == "" {
				authority = "a.example"
			}
			got := r.stream(":method", tt.method, ":scheme", "http", ":authority", authority, ":path", tt.target)
			if tt.good && (got != "200" || o.requests() != 1) {
				t.Errorf("answer %s; the origin got %q", got, o)
			}
			if !tt.good && (got == "200" || o.String() != "") {
				t.Errorf("answer %s; the origin got %q", got, o)
			}
		})
	}
}

// TestHostFieldHTTP2: a Host beside :authority must be the same host.
func TestHostFieldHTTP2(t *testing.T) {
	for host, want := range map[string]string{"a.example": "200", "A.example": "200", "evil.example": "400", "": "400"} {
		r := newRig(t, HTTP)
		o := r.newRawOrigin("a.example", okAnswer)
		if got := r.stream(":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/", "host", host); got != want {
			t.Errorf("host %q: %s, want %s; the origin got %q", host, got, want, o)
		}
	}
}

// stream sends one request without a body in HTTP/2, by hand, and returns its
// status, or how it failed.
func (r *rig) stream(fields ...string) string {
	r.t.Helper()
	nc := r.dial()
	defer nc.Close()
	_, _ = io.WriteString(nc, http2.ClientPreface)
	f := http2.NewFramer(nc, nc)
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = f.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		_ = enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		case *http2.GoAwayFrame:
			return frame.ErrCode.String()
		}
	}
}
