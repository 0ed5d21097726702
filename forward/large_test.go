// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/egressd/egressd/internal/flow"
)

// TestLargeAnswers: what goes past our memory arrives whole, is counted, and leaves
// both connections good for more; one that breaks off is cut.
func TestLargeAnswers(t *testing.T) {
	const size = 20 << 20
	body := noise(4, size)
	r := newRig(t, HTTP)
	r.origin("a.example", func(nc *net.TCPConn) {
		br := bufio.NewReader(nc)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			if req.URL.Path == "/cut" {
				_, _ = nc.Write(body[:size/2])
				return
			}
			_, _ = nc.Write(body)
		}
	})
	c := r.client(false)
	for n := range 3 {
		resp, got := get(t, c, "http://a.example/")
		if resp.StatusCode != 200 || got != string(body) {
			t.Errorf("%d, %d bytes", resp.StatusCode, len(got))
		}
		if e := r.sink.wait(t, flow.Request, n+1); e.BytesReceived != size {
			t.Errorf("event %+v", e)
		}
	}
	if n := r.dialCount("a.example"); n != 1 {
		t.Errorf("%d upstream connections", n)
	}
	resp, err := c.Get("http://a.example/cut")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size/2 || err == nil {
		t.Errorf("%d bytes, %v; the client must see that it is cut", n, err)
	}
	resp.Body.Close()
}

func BenchmarkLargeAnswer(b *testing.B) {
	const size = 64 << 20
	r := newRig(b, HTTP)
	chunk := make([]byte, 1<<20)
	r.origin("a.example", func(nc *net.TCPConn) {
		br := bufio.NewReader(nc)
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			fmt.Fprintf(nc, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
			for range size / len(chunk) {
				_, _ = nc.Write(chunk)
			}
		}
	})
	c := r.client(false)
	b.SetBytes(size)
	for b.Loop() {
		resp, err := c.Get("http://a.example/")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, chunk)
		resp.Body.Close()
	}
}
