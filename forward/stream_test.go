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
	"net/http/httptrace"
	"net/textproto"
	"reflect"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

func TestContinue(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/no" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%d", len(body))
	})
	for path, want := range map[string]int{"/yes": 200, "/no": 417} {
		got100 := false
		trace := &httptrace.ClientTrace{Got100Continue: func() { got100 = true }}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "POST", "http://a.example"+path, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Expect", "100-continue")
		resp, err := r.client(false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || got100 != (want == 200) {
			t.Errorf("%s: %d, 100 seen: %v", path, resp.StatusCode, got100)
		}
	}
}

func TestEarlyHints(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Link", "</s>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			fmt.Fprint(w, "ok")
		})
		var codes []int
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			codes = append(codes, code)
			if h.Get("Link") != "</s>" {
				t.Errorf("hints %v", h)
			}
			return nil
		}}
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", "http://a.example/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := r.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if !reflect.DeepEqual(codes, []int{103}) || resp.Header.Get("Link") != "" || resp.StatusCode != 200 {
			t.Errorf("%v, %d %v", codes, resp.StatusCode, resp.Header)
		}
	}
}

// TestStreaming holds both bodies open at once: each part must arrive before
// the next is sent.
func TestStreaming(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		r := newRig(t, HTTP)
		r.http = func(req *policy.Request) policy.HTTPDecision {
			u := upstreamOf(req.Host)
			u.Protocol = policy.ProtocolUnset
			return policy.HTTPDecision{Decision: allowed, Upstream: u}
		}
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			b := make([]byte, 1)
			for {
				if _, err := req.Body.Read(b); err != nil {
					return
				}
				_, _ = w.Write(bytes.ToUpper(b))
				_ = rc.Flush()
			}
		})
		body, send := io.Pipe()
		req, err := http.NewRequest("POST", "http://a.example/", body)
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = send.Write([]byte("a")) }()
		resp, err := r.client(http2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1)
		for _, next := range []string{"b", "c", ""} {
			if _, err := io.ReadFull(resp.Body, b); err != nil {
				t.Fatalf("http2 %v: %v", http2, err)
			}
			if next != "" {
				_, _ = send.Write([]byte(next))
			}
		}
		send.Close()
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
	}
}

func TestLargeBodies(t *testing.T) {
	const size = 8 << 20
	for _, http2 := range []bool{false, true} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			n, err := io.Copy(w, req.Body)
			if err != nil {
				t.Errorf("origin: %d bytes, %v", n, err)
			}
		})
		in := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		resp, err := r.client(http2).Post("http://a.example/", "x/y", bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(in, out) {
			t.Errorf("http2 %v: %d bytes of %d came back, %v", http2, len(out), size, err)
		}
	}
}

func TestUpstreamBreaksOff(t *testing.T) {
	r := newRig(t, HTTP)
	r.origin("a.example", func(nc *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(nc)); err != nil {
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	})
	resp, err := r.client(false).Get("http://a.example/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, io.ErrUnexpectedEOF) && err == nil {
		t.Errorf("read %v; the client must see that the body is cut", err)
	}
	resp.Body.Close()
	if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonUpstreamClosed || e.ResponseFlags != "UC" {
		t.Errorf("event %+v", e)
	}
}

// TestClientGoesAway: the origin is told, as it would be by the client itself.
func TestClientGoesAway(t *testing.T) {
	for _, how := range []string{"an end", "a reset"} {
		r := newRig(t, HTTP)
		gone := make(chan struct{})
		started := make(chan struct{})
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			close(started)
			<-req.Context().Done()
			close(gone)
		})
		nc := r.dial()
		write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
		receive(t, started)
		if how == "a reset" {
			_ = nc.SetLinger(0)
		}
		nc.Close()
		receive(t, gone)
		// A client that has ended its side may still want the answer.
		if e := r.sink.wait(t, flow.Request, 1); how == "a reset" && (e.Status != 0 || e.Detail == "") {
			t.Errorf("%s: event %+v", how, e)
		}
	}
}
