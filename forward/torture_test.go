// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
)

// TestManyAtOnce: clients and origins that do all that they may, and some that they
// may not, while the policy is asked again. Whoever gets an answer gets the one to
// its own request, whole.
func TestManyAtOnce(t *testing.T) {
	for _, share := range []bool{false, true} {
		r := newRig(t, HTTP, func(o *Options) { o.Share, o.Rand = share, rand.Uint64 })
		r.http = func(req *policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: allowed, Action: &policy.HTTPAction{
				Rule: &policy.HTTPRule{
					Timeout: 2 * time.Second, Retries: &policy.Retries{Attempts: 2, On: []string{"reset", "5xx"}, PerTryTimeout: time.Second, Backoff: time.Millisecond},
					Headers: &policy.Headers{Request: policy.HeaderOps{Set: []policy.Header{{Name: "x-set", Value: req.Path}}}},
				},
				Destinations: []policy.RouteDestination{{Upstream: upstreamOf("a.example"), Weight: 1}}, TotalWeight: 1,
			}}
		}
		r.origin("a.example", oddOrigin)
		r.addr()
		done := make(chan struct{})
		var asking sync.WaitGroup
		asking.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(5 * time.Millisecond):
					r.core.Recheck()
				}
			}
		})
		var wg sync.WaitGroup
		for id := range 16 {
			wg.Go(func() {
				for n := range 25 {
					oddClient(t, r.server.Addr().String(), fmt.Sprintf("%d-%d", id, n))
				}
			})
		}
		wg.Wait()
		close(done)
		asking.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := r.core.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		cancel()
		if u := r.core.o.Limits.Memory.Use(); u.Used != 0 {
			t.Errorf("%d bytes are taken", u.Used)
		}
		if u := r.core.o.Limits.Descriptors.Use(); u.Used != 0 {
			t.Errorf("%d descriptors are taken", u.Used)
		}
	}
}

// oddOrigin answers with what it was asked for, or breaks off, or closes.
func oddOrigin(nc *net.TCPConn) {
	br := bufio.NewReader(nc)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		what := rand.IntN(20)
		if what == 0 {
			return // without a word
		}
		if what != 1 { // else an early answer
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
		}
		if req.Header.Get("X-Set") != req.URL.Path {
			_, _ = io.WriteString(nc, "HTTP/1.1 500 mixed up\r\nContent-Length: 8\r\n\r\nmixed up")
			return
		}
		body := bytes.Repeat([]byte(req.URL.Path+"\n"), 1+rand.IntN(3000))
		switch what {
		case 2:
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)+1)
			_, _ = nc.Write(body)
			return // too little
		case 3, 4, 5, 6, 7:
			fmt.Fprintf(nc, "HTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			for len(body) > 0 {
				part := body[:min(len(body), 1+rand.IntN(9000))]
				fmt.Fprintf(nc, "%x\r\n%s\r\n", len(part), part)
				body = body[len(part):]
			}
			_, _ = io.WriteString(nc, "0\r\n\r\n")
		case 8:
			_, _ = nc.Write(append([]byte("HTTP/1.0 200 OK\r\n\r\n"), body...))
			return
		default:
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body))
			_, _ = nc.Write(body)
		}
		if what == 9 {
			return // behind an answer that does not say so
		}
	}
}

// oddClient sends some requests on a connection and looks at the answers.
func oddClient(t *testing.T, addr, id string) {
	nc, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Error(err)
		return
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	br := bufio.NewReader(nc)
	for n := range 1 + rand.IntN(5) {
		path := fmt.Sprintf("/%s/%d", id, n)
		var out bytes.Buffer
		body := strings.Repeat("x", rand.IntN(40000))
		switch rand.IntN(4) {
		case 0:
			fmt.Fprintf(&out, "POST %s HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
		case 1:
			fmt.Fprintf(&out, "POST %s HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", path)
			for len(body) > 0 {
				part := body[:min(len(body), 1+rand.IntN(5000))]
				fmt.Fprintf(&out, "%x\r\n%s\r\n", len(part), part)
				body = body[len(part):]
			}
			out.WriteString("0\r\n\r\n")
		default:
			fmt.Fprintf(&out, "GET %s HTTP/1.1\r\nHost: a.example\r\n\r\n", path)
		}
		raw := out.Bytes()
		gone := rand.IntN(15) == 0
		if gone {
			raw = raw[:rand.IntN(len(raw))]
		}
		go func() { // the answer may come before all is sent
			for len(raw) > 0 {
				part := raw[:min(len(raw), 1+rand.IntN(20000))]
				if _, err := nc.Write(part); err != nil {
					return
				}
				raw = raw[len(part):]
			}
		}()
		if gone {
			if rand.IntN(2) == 0 {
				_ = nc.(*net.TCPConn).SetLinger(0)
			}
			return
		}
		var resp *http.Response
		for {
			if resp, err = http.ReadResponse(br, nil); err != nil || resp.StatusCode >= 200 {
				break
			}
		}
		if err != nil {
			expectNoTimeout(t, err, path)
			return
		}
		got, err := io.ReadAll(resp.Body)
		if resp.StatusCode == 500 {
			t.Errorf("%s: %s", path, got)
		}
		if resp.StatusCode != 200 {
			return
		}
		if text := strings.ReplaceAll(string(got), path+"\n", ""); err == nil && text != "" || len(got) > 0 && !strings.HasPrefix(string(got), path[:min(len(path), len(got))]) {
			t.Errorf("%s: the answer is another's: %.60q", path, text)
		}
		if err != nil || resp.Close {
			expectNoTimeout(t, err, path)
			return
		}
	}
}

func expectNoTimeout(t *testing.T, err error, what string) {
	if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
		t.Errorf("%s: %v", what, err)
	}
}
