// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/forward/relay"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestBytesOfAChunk: they go on as they come, both ways, and the chunks stay what
// they were.
func TestBytesOfAChunk(t *testing.T) {
	r := newRig(t, HTTP)
	conns := r.accepts("a.example")
	nc := r.dial()
	head := "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n"
	write(t, nc, head)
	up := receive(t, conns)
	readN(t, up, len(head))
	answer := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, part := range []string{"a\r\n01", "234", "56789\r\n", "0\r\n\r\n"} {
		write(t, nc, part)
		if got := readN(t, up, len(part)); got != part {
			t.Fatalf("the origin got %q, want %q", got, part)
		}
	}
	write(t, up, answer)
	if got := readN(t, nc, len(answer)); got != answer {
		t.Fatalf("the client got %q", got)
	}
	for _, part := range []string{"a\r\n01", "234", "56789\r\n", "0\r\n\r\n"} {
		write(t, up, part)
		if got := readN(t, nc, len(part)); got != part {
			t.Fatalf("the client got %q, want %q", got, part)
		}
	}
}

// TestUnaskedBehindAnAnswer: what an origin sends behind an answer is nobody's, also
// when it comes together with it.
func TestUnaskedBehindAnAnswer(t *testing.T) {
	for _, share := range []bool{false, true} {
		r := newRig(t, HTTP, func(o *Options) { o.Share = share })
		r.origin("a.example", func(nc *net.TCPConn) {
			br := bufio.NewReader(nc)
			for {
				if _, err := http.ReadRequest(br); err != nil {
					return
				}
				_, _ = io.WriteString(nc, okAnswer+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
			}
		})
		nc := r.dial()
		for range 10 {
			status, body := say(t, nc, getOf("a.example"))
			if status == 0 { // the client was told that its upstream has gone
				nc = r.dial()
			} else if status != 200 || body != "ok" {
				t.Fatalf("share %t: %d %q", share, status, body)
			}
		}
	}
}

// TestEndBehindPipelinedRequests: the origin learns that no more will come behind
// the last request, not before.
func TestEndBehindPipelinedRequests(t *testing.T) {
	r := newRig(t, HTTP)
	done := make(chan struct{})
	r.origin("a.example", func(nc *net.TCPConn) {
		defer close(done)
		br := bufio.NewReader(nc)
		for n := range 3 {
			if _, err := http.ReadRequest(br); err != nil {
				t.Errorf("request %d: %v", n, err)
				return
			}
			time.Sleep(3 * relay.WatchTick) // time is what is under test
			_, _ = io.WriteString(nc, okAnswer)
		}
		if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("behind the last request: %v", err)
		}
	})
	nc := r.dial()
	write(t, nc, strings.Repeat(getOf("a.example"), 3))
	if err := nc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	br, answers := bufio.NewReader(nc), 0
	for {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			break
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		answers++
	}
	receive(t, done)
	if answers != 3 || r.dialCount("a.example") != 1 {
		t.Errorf("%d answers over %d upstream connections", answers, r.dialCount("a.example"))
	}
}

// TestReasonOfMalformed: a request that is none is refused with a reason that has a
// name, which the event tells.
func TestReasonOfMalformed(t *testing.T) {
	for raw, want := range map[string]*http1.MalformedError{
		"GET / HTTP/1.1\r\nHost : a.example\r\n\r\n":                                          http1.ErrFieldName,
		"GET / HTTP/1.1\r\n" + strings.Repeat("x:\r\n", http1.MaxFields+1) + "\r\n":           http1.ErrFields,
		"GET / HTTP/1.1\r\nHost: a.example\r\nX: a\nContent-Length: 3\r\n\r\n":                http1.ErrLineEnd,
		"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0": http1.ErrCoding,
		"GET / HTTP/3.0\r\nHost: a.example\r\n\r\n":                                           http1.ErrVersion,
	} {
		r := newRig(t, HTTP)
		if got := r.answers(raw + last); !slices.Equal(got, []int{want.Status}) {
			t.Errorf("%.60q: %v, want %d", raw, got, want.Status)
		}
		if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonMalformed || e.Detail != want.Reason || e.Status != want.Status || !e.Denied() {
			t.Errorf("%.60q: event %+v", raw, e)
		}
		if e := r.sink.wait(t, flow.Close, 1); e.Reason != policy.ReasonMalformed || e.Detail != want.Reason {
			t.Errorf("%.60q: event %+v", raw, e)
		}
	}
}

// TestBigHeads: heads that fit no buffer go on whole, both ways.
func TestBigHeads(t *testing.T) {
	for _, n := range []int{7900, 8100, 8192, 9000, 33000, 60000} {
		r := newRig(t, HTTP)
		value := strings.Repeat("x", n)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("X-Back", req.Header.Get("X-There"))
			_, _ = io.WriteString(w, "body")
		})
		nc := r.dial()
		for range 2 {
			write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\nX-There: "+value+"\r\n\r\n")
			resp, err := http.ReadResponse(bufio.NewReaderSize(nc, 1<<17), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if resp.Header.Get("X-Back") != value || string(body) != "body" {
				t.Errorf("%d: %d bytes came back, and %q", n, len(resp.Header.Get("X-Back")), body)
			}
		}
	}
}

// TestAnswersOfManySizes: whole bodies arrive, however they are framed and however
// they fit the buffers.
func TestAnswersOfManySizes(t *testing.T) {
	sizes := []int{0, 1, 1000, 7 << 10, 8<<10 - 200, 8 << 10, 9 << 10, 32 << 10, 33 << 10, 100 << 10, 1 << 20, 5 << 20}
	body := noise(3, sizes[len(sizes)-1])
	for _, up := range []policy.Protocol{policy.ProtocolHTTP, policy.ProtocolHTTP2} {
		r := newRig(t, HTTP)
		r.http = func(req *policy.Request) policy.HTTPDecision {
			u := upstreamOf(req.Host)
			u.Protocol = up
			return policy.HTTPDecision{Decision: allowed, Upstream: u}
		}
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			var n int
			_, _ = fmt.Sscan(req.URL.Query().Get("n"), &n)
			sent, err := io.ReadAll(req.Body)
			if err != nil || string(sent) != string(body[:n]) {
				t.Errorf("%d bytes of %d came, %v", len(sent), n, err)
			}
			if req.URL.Path == "/length" {
				w.Header().Set("Content-Length", fmt.Sprint(n))
			} else {
				w.WriteHeader(200)
				_ = http.NewResponseController(w).Flush()
			}
			_, _ = w.Write(body[:n])
		})
		c := r.client(false)
		for _, n := range sizes {
			for _, path := range []string{"/length", "/chunked"} {
				var in io.Reader = strings.NewReader(string(body[:n]))
				if path == "/chunked" {
					in = io.MultiReader(in) // of unknown length
				}
				resp, err := c.Post(fmt.Sprintf("http://a.example%s?n=%d", path, n), "x/y", in)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || string(got) != string(body[:n]) {
					t.Errorf("%s, %s: %d bytes of %d, %v", up, path, len(got), n, err)
				}
			}
		}
		if n := r.dialCount("a.example"); n != 1 {
			t.Errorf("%s: %d upstream connections", up, n)
		}
	}
}
