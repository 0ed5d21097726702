// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestHalfCloseOfHTTP: a client that sends no more gets the answers to all that it has
// sent, and the origin learns that no more will come, as without egressd.
func TestHalfCloseOfHTTP(t *testing.T) {
	requests := map[string]struct {
		text    string
		answers int
	}{
		"one":                      {getOf("a.example"), 1},
		"the last one":             {"GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", 1},
		"HTTP/1.0":                 {"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", 1},
		"with a body":              {postOf("a.example"), 1},
		"with chunks":              {"POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 1},
		"several":                  {getOf("a.example") + postOf("a.example") + getOf("a.example"), 3},
		"less than a whole one":    {"GET / HTTP/1.1\r\nHost: a.exa", 0},
		"less than the whole body": {"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhi", 0},
	}
	for _, up := range []policy.Protocol{policy.ProtocolHTTP, policy.ProtocolHTTP2} {
		for name, tt := range requests {
			for _, late := range []bool{false, true} {
				what := fmt.Sprintf("%s, %s, late %t", up, name, late)
				r := newRig(t, HTTP)
				r.http = func(req *policy.Request) policy.HTTPDecision {
					u := upstreamOf(req.Host)
					u.Protocol = up
					return policy.HTTPDecision{Decision: allowed, Upstream: u}
				}
				var clientEnded chan struct{}
				if late {
					clientEnded = make(chan struct{})
				}
				r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
					_, _ = io.Copy(io.Discard, req.Body)
					if late {
						<-clientEnded // the answer comes when the end was seen
					}
					_, _ = io.WriteString(w, "ok")
				})
				nc := r.dial()
				write(t, nc, tt.text)
				if late {
					if err := nc.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					close(clientEnded)
				} else if err := nc.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				br, answers := bufio.NewReader(nc), 0
				for {
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						break
					}
					body, _ := io.ReadAll(resp.Body)
					if resp.StatusCode == 200 && string(body) == "ok" {
						answers++
					}
				}
				if answers != tt.answers {
					t.Errorf("%s: %d answers, want %d", what, answers, tt.answers)
				}
			}
		}
	}
}

// TestHalfCloseIsPassedOn: what the origin sees of it, and when; while it thinks
// nothing is cancelled.
func TestHalfCloseIsPassedOn(t *testing.T) {
	r := newRig(t, HTTP)
	r.origin("a.example", func(nc *net.TCPConn) {
		br := bufio.NewReader(nc)
		if _, err := http.ReadRequest(br); err != nil {
			t.Error(err)
		}
		if _, err := br.ReadByte(); err != io.EOF {
			t.Errorf("behind the request: %v, want the end", err)
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nafter")
	})
	nc := r.dial()
	write(t, nc, getOf("a.example"))
	if err := nc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(nc); err != nil || !strings.HasSuffix(string(b), "after") {
		t.Errorf("%q, %v", b, err)
	}
}

// TestGoneBehindHalfClose: a client that resets the connection behind its end has
// gone, and its request with it.
func TestGoneBehindHalfClose(t *testing.T) {
	r := newRig(t, HTTP)
	conns := r.accepts("a.example")
	nc := r.dial()
	write(t, nc, getOf("a.example"))
	if err := nc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	up := receive(t, conns)
	if _, err := io.ReadAll(up); err != nil { // the end has been passed on
		t.Fatal(err)
	}
	_ = nc.SetLinger(0)
	nc.Close()
	if e := r.sink.wait(t, flow.Request, 1); e.Status != 0 || e.Duration > patience/2 || e.Detail == "" {
		t.Errorf("event %+v", e)
	}
}

// TestOddRequests: what clients may send around a request.
func TestOddRequests(t *testing.T) {
	for name, raw := range map[string]string{
		"an empty line before":        "\r\nGET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
		"an empty line behind a body": postOf("a.example") + "\r\n" + getOf("a.example"),
		"bare line ends before":       "\n\n" + getOf("a.example"),
		"an empty port":               "GET / HTTP/1.1\r\nHost: a.example:\r\n\r\n",
	} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) })
		want := strings.Count(raw, "HTTP/1.1") + 1
		if got := r.answers(raw + last); len(got) != want || slices.Max(got) != 200 {
			t.Errorf("%s: %v, want %d times 200", name, got, want)
		}
	}
}

// TestNoDelay: a message that is written in two parts, by a sender that waits for
// the acknowledgement of the first one (RFC 896), comes without delay.
func TestNoDelay(t *testing.T) {
	const tries = 9
	r := newRig(t, HTTP)
	r.origin("a.example", func(nc *net.TCPConn) {
		_ = nc.SetNoDelay(false)
		br := bufio.NewReader(nc)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
			_, _ = io.WriteString(nc, "ab")
			_, _ = io.WriteString(nc, "cd")
		}
	})
	nc := r.dial()
	_ = nc.SetNoDelay(false)
	slow := 0
	for range tries {
		start := time.Now()
		write(t, nc, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n")
		write(t, nc, "ab")
		write(t, nc, "cd")
		if status, _ := say(t, nc, ""); status != 200 {
			t.Fatalf("status %d", status)
		}
		if time.Since(start) > 30*time.Millisecond { // delayed acknowledgements are 40 ms
			slow++
		}
	}
	if slow > tries/3 { // a busy machine is slow now and then
		t.Errorf("%d of %d requests were delayed", slow, tries)
	}
}
