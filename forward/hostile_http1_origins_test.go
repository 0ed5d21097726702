// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
)

// hostileHTTP1 is what an origin of HTTP/1 does when it has a request: it writes
// begin, and then again and again more, or drips with pauses, if there is any.
var hostileHTTP1 = map[string]struct {
	begin, more, drips string
	ends               bool // the origin ends the connection behind it
	reason             policy.Reason
	status             int // of the client's answer; 0: it is broken off
}{
	"100 without end":                      {more: "HTTP/1.1 100 Continue\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"103 without end":                      {more: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"a head without end":                   {begin: "HTTP/1.1 200 OK\r\n", more: "X-A: " + strings.Repeat("a", 1000) + "\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"a line without end":                   {begin: "HTTP/1.1 200 OK\r\nX-A: ", more: strings.Repeat("a", 1000), reason: policy.ReasonUpstreamProtocol, status: 502},
	"a status line without end":            {begin: "HTTP/1.1 200 ", more: strings.Repeat("a", 1000), reason: policy.ReasonUpstreamProtocol, status: 502},
	"fields without end":                   {begin: "HTTP/1.1 200 OK\r\n", more: strings.Repeat("a:\r\n", 100), reason: policy.ReasonUpstreamProtocol, status: 502},
	"empty lines without end":              {more: "\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"101 that nobody asked for":            {begin: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"a status that is none":                {begin: "HTTP/1.1 2000 OK\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"HTTP/2":                               {begin: "\x00\x00\x00\x04\x00\x00\x00\x00\x00", ends: true, reason: policy.ReasonUpstreamProtocol, status: 502},
	"two lengths":                          {begin: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", reason: policy.ReasonUpstreamProtocol, status: 502},
	"a length that is none":                {begin: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"a bare CR":                            {begin: "HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n", reason: policy.ReasonUpstreamProtocol, status: 502},
	"less than its Content-Length":         {begin: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxx", ends: true, reason: policy.ReasonUpstreamClosed},
	"a size of a chunk without end":        {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", more: strings.Repeat("0", 1000), reason: policy.ReasonUpstreamClosed},
	"an extension without end":             {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", more: strings.Repeat("a", 1000), reason: policy.ReasonUpstreamClosed},
	"extensions of chunks without end":     {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", more: "1;" + strings.Repeat("a", 1000) + "\r\nx\r\n", reason: policy.ReasonUpstreamClosed},
	"a size that overflows":                {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", reason: policy.ReasonUpstreamClosed},
	"a trailer without end":                {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", more: "A: " + strings.Repeat("a", 1000) + "\r\n", reason: policy.ReasonUpstreamClosed},
	"nothing at all":                       {ends: true, reason: policy.ReasonUpstreamClosed, status: 503},
	"silence":                              {reason: policy.ReasonStreamIdle, status: 504},
	"silence in the status line":           {begin: "HTTP/1.1 2", reason: policy.ReasonStreamIdle, status: 504},
	"silence in the head":                  {begin: "HTTP/1.1 200 OK\r\nA: ", reason: policy.ReasonStreamIdle, status: 504},
	"silence behind the head":              {begin: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", reason: policy.ReasonStreamIdle},
	"silence in the body":                  {begin: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nxx", reason: policy.ReasonStreamIdle},
	"silence between chunks":               {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", reason: policy.ReasonStreamIdle},
	"silence in the trailer":               {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ", reason: policy.ReasonStreamIdle},
	"100 that drips":                       {drips: "HTTP/1.1 100 Continue\r\n\r\n", reason: policy.ReasonStreamIdle, status: 504},
	"103 that drips":                       {drips: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", reason: policy.ReasonStreamIdle, status: 504},
	"a status line that drips":             {begin: "HTTP/1.1 200 ", drips: "a", reason: policy.ReasonStreamIdle, status: 504},
	"a head that drips":                    {begin: "HTTP/1.1 200 OK\r\nA: ", drips: "a", reason: policy.ReasonStreamIdle, status: 504},
	"fields that drip":                     {begin: "HTTP/1.1 200 OK\r\n", drips: "a:\r\n", reason: policy.ReasonStreamIdle, status: 504},
	"a size of a chunk that drips":         {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", drips: "0", reason: policy.ReasonStreamIdle},
	"an extension that drips":              {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", drips: "a", reason: policy.ReasonStreamIdle},
	"a trailer that drips":                 {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ", drips: "a", reason: policy.ReasonStreamIdle},
	"a body that drips":                    {begin: "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", drips: "x", reason: policy.ReasonStreamDuration},
	"chunks that drip":                     {begin: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", drips: "1\r\nx\r\n", reason: policy.ReasonStreamDuration},
	"a body to the end that drips":         {begin: "HTTP/1.1 200 OK\r\n\r\n", drips: "x", reason: policy.ReasonStreamDuration},
	"100, and silence":                     {begin: "HTTP/1.1 100 Continue\r\n\r\n", reason: policy.ReasonStreamIdle, status: 504},
	"a body without end that nobody reads": {begin: "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\n", more: strings.Repeat("x", 64<<10), reason: policy.ReasonClientGone},
}

// TestHostileHTTP1Origins: as TestHostileHTTP2Origins, for HTTP/1.
func TestHostileHTTP1Origins(t *testing.T) {
	origins := map[string]hostileOrigin{}
	for name, tt := range hostileHTTP1 {
		h := hostileOrigin{reason: tt.reason, status: tt.status, unread: tt.reason == policy.ReasonClientGone}
		switch tt.reason {
		case policy.ReasonStreamIdle:
			h.limits = quick
		case policy.ReasonStreamDuration:
			h.limits = soon
		}
		h.serve = func(nc *net.TCPConn) int64 { return hostileAnswer(nc, tt.begin, tt.more, tt.drips, tt.ends) }
		origins[name] = h
	}
	tryOrigins(t, origins)
}

// hostileAnswer answers a request, and returns how many bytes it could send.
func hostileAnswer(nc net.Conn, begin, more, drips string, ends bool) int64 {
	br := bufio.NewReader(nc)
	if _, err := http.ReadRequest(br); err != nil {
		return 0
	}
	w := &counting{Writer: nc}
	if _, err := io.WriteString(w, begin); err != nil {
		return w.n
	}
	for more != "" && w.n < 2*mostSent {
		if _, err := io.WriteString(w, more); err != nil {
			break
		}
	}
	if drips != "" {
		drip(func() error {
			_, err := io.WriteString(w, drips)
			return err
		})
	}
	if !ends {
		_, _ = io.Copy(io.Discard, br) // until it is ended
	}
	return w.n
}

// TestSecondAnswer: what an origin sends beside the answer to a request, before it or
// behind it, is never another request's answer, whoever shares the connection and in
// whichever version, once it has come when the next request is to be sent. What comes
// later than that nobody can tell from an answer: in HTTP/1 answers have no names.
func TestSecondAnswer(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	own := func(path string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path)
	}
	for name, tt := range map[string]struct {
		first  string // before any request
		answer func(path string) []string
	}{
		// The first request's answer is the origin's to give; it is none of a later one.
		"before any request":                      {own("/0"), func(path string) []string { return []string{own(path)} }},
		"behind an answer":                        {"", func(path string) []string { return []string{own(path) + evil} }},
		"behind an answer, in a write of its own": {"", func(path string) []string { return []string{own(path), evil} }},
		"half an answer more":                     {"", func(path string) []string { return []string{own(path) + evil[:20]} }},
		"a body behind 204":                       {"", func(string) []string { return []string{"HTTP/1.1 204 No Content\r\n\r\n" + evil} }},
		"a body behind 304": {"", func(string) []string {
			return []string{"HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n" + evil}
		}},
	} {
		for _, share := range []bool{false, true} {
			for _, down := range []bool{false, true} {
				r := newRig(t, HTTP, func(o *Options) { o.Share = share })
				said := make(chan struct{}, 100) // all that there is behind a request
				r.origin("a.example", func(nc *net.TCPConn) {
					_, _ = io.WriteString(nc, tt.first)
					for br := bufio.NewReader(nc); ; {
						req, err := http.ReadRequest(br)
						if err != nil {
							return
						}
						for _, part := range tt.answer(req.URL.Path) {
							_, _ = io.WriteString(nc, part)
						}
						said <- struct{}{}
					}
				})
				c, good := r.client(down), 0
				for i := range 10 {
					path := fmt.Sprint("/", i)
					resp, err := c.Get("http://a.example" + path)
					if err != nil {
						continue // the client was told
					}
					body, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode < 400 {
						good++
						receive(t, said)
					}
					// The answer that came first may be that of the first request of any connection.
					if resp.StatusCode == 200 && string(body) != path && (tt.first == "" || string(body) != "/0") {
						t.Errorf("%s, shared %v, HTTP/2 %v: request %d got %d %q", name, share, down, i, resp.StatusCode, body)
					}
				}
				if good == 0 {
					t.Errorf("%s, shared %v, HTTP/2 %v: nothing was answered", name, share, down)
				}
			}
		}
	}
}
