// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/http1"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// httpOrigin serves HTTP/1.1 and h2c for the host.
func (r *rig) httpOrigin(host string, h http.HandlerFunc) {
	r.t.Helper()
	r.httpOriginWith(host, h, nil)
}

// httpOriginWith is httpOrigin that tells of its connections' states.
func (r *rig) httpOriginWith(host string, h http.HandlerFunc, state func(net.Conn, http.ConnState)) {
	r.t.Helper()
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &p, ConnState: state}
	ln := listen(r.t, "127.0.0.1:0")
	r.at(host, ln.Addr())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	r.t.Cleanup(func() { s.Close(); <-done })
}

// client returns an HTTP client whose every connection goes to the core.
func (r *rig) client(http2 bool) *http.Client {
	addr := r.addr()
	var p http.Protocols
	p.SetHTTP1(!http2)
	p.SetUnencryptedHTTP2(http2)
	tr := &http.Transport{
		Protocols:          &p,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", addr)
		},
		ExpectContinueTimeout: patience,
	}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport:     tr,
		Timeout:       patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rule makes an action act on every request.
func (r *rig) rule(a *policy.HTTPAction) {
	r.change(func() {
		r.http = func(*policy.Request) policy.HTTPDecision {
			return policy.HTTPDecision{Decision: allowed, Action: a}
		}
	})
}

// routeTo is an action that forwards to the hosts with equal weights.
func routeTo(rule *policy.HTTPRule, hosts ...string) *policy.HTTPAction {
	a := &policy.HTTPAction{Rule: rule}
	for _, host := range hosts {
		a.Destinations = append(a.Destinations, policy.RouteDestination{Upstream: upstreamOf(host), Weight: 1})
		a.TotalWeight++
	}
	return a
}

func get(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(body)
}

// TestTransparent compares, byte by byte, what passes with what was sent:
// neither end may notice the core.
func TestTransparent(t *testing.T) {
	tests := []struct{ name, request, response string }{
		{
			"a target that net/url would write otherwise",
			"GET /a%2Fb/../c|d?x=%zz&y HTTP/1.1\r\nHost: A.example:8080\r\nAccept: x\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		},
		{
			"two slashes and an empty query",
			"GET //double//slash? HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nServer: o\r\n\r\n",
		},
		{
			"a percent sign",
			"GET /50% HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"no escape",
			"GET /a%zz/%u0061?%=%%%41 HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"two slashes and no escape",
			"GET //a.example/x%zz|\"<>[]^`{} HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"asterisk",
			"OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n",
		},
		{
			"a body",
			"POST /p HTTP/1.1\r\nHost: a.example\r\nUser-Agent: me\r\nContent-Length: 3\r\nAccept-Encoding: gzip\r\n\r\nabc",
			"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnot!",
		},
		{
			"HEAD",
			"HEAD /h HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
		},
		{
			"names, order, spaces and the reason as they are",
			"PUT /p HTTP/1.1\r\nx-B: 1\r\nuser-agent:me\r\nX-a:  2 \r\nhost: a.example\r\ncookie: a\r\nACCEPT: */*\r\nx-b: 3\r\ncontent-length: 2\r\n\r\nhi",
			"HTTP/1.1 404 Nichts gefunden\r\nzz: 1\r\nserver:o\r\nSet-cookie: b\r\nset-Cookie: a\r\ncontent-length: 2\r\nETag: \"x\"\r\nAAA:\r\n\r\nno",
		},
		{
			"chunks, and an answer without a reason",
			"POST /p HTTP/1.1\r\ntransfer-encoding: chunked\r\nHOST: a.example\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			"HTTP/1.1 200 \r\ndate: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		},
		{
			"a length without a body",
			"GET / HTTP/1.1\r\nHost: a.example\r\nIf-None-Match: \"x\"\r\n\r\n",
			"HTTP/1.1 304 Not Modified\r\nContent-Length: 17\r\nContent-Type: text/plain\r\nETag: \"x\"\r\n\r\n",
		},
		{
			"informational answers",
			"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 103 Frueh\r\nlink: <x>\r\nA: b\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <y>\r\n\r\nHTTP/1.1 200 Gut\r\nb: x\r\na: y\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"how long a connection lives",
			"GET / HTTP/1.1\r\nConnection: keep-alive\r\nKeep-Alive: timeout=9\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nkeep-alive: timeout=5, max=3\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"trailers are welcome",
			"GET / HTTP/1.1\r\nTE: trailers\r\nconnection: te, Keep-Alive\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		},
		{
			"the last request of a connection",
			"GET / HTTP/1.1\r\nConnection: close\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		},
		{
			"a body up to the end of the connection",
			"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
			"HTTP/1.1 200 OK\r\nServer: o\r\nConnection: close\r\n\r\nall of it",
		},
	}
	for _, tt := range tests {
		for _, bytewise := range []bool{false, true} {
			r := newRig(t, HTTP)
			got := make(chan string, 1)
			r.origin("a.example", func(nc *net.TCPConn) {
				b := make([]byte, 4096)
				// The body may come in a segment of its own.
				_ = nc.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, _ := io.ReadAtLeast(nc, b, len(tt.request))
				got <- string(b[:n])
				_ = nc.SetReadDeadline(time.Time{})
				spell(nc, tt.response, bytewise)
				if !strings.Contains(tt.response, "ength") && !strings.Contains(tt.response, "chunked") && !strings.Contains(tt.response, "204") {
					return // the end of the connection is the end of the body
				}
				_, _ = io.Copy(io.Discard, nc)
			})
			nc := r.dial()
			spell(nc, tt.request, bytewise)
			if out := receive(t, got); out != tt.request {
				t.Errorf("%s: the origin got\n%q, sent\n%q", tt.name, out, tt.request)
			}
			if back := readN(t, nc, len(tt.response)); back != tt.response {
				t.Errorf("%s: the client got\n%q, sent\n%q", tt.name, back, tt.response)
			}
		}
	}
}

// spell writes text at once, or each byte in a segment of its own.
func spell(nc *net.TCPConn, text string, bytewise bool) {
	if !bytewise {
		_, _ = io.WriteString(nc, text)
		return
	}
	for i := range len(text) {
		_, _ = io.WriteString(nc, text[i:i+1])
	}
}

func TestHTTPBothVersions(t *testing.T) {
	for _, down := range []int{1, 2} {
		for _, proto := range []policy.Protocol{policy.ProtocolHTTP, policy.ProtocolHTTP2, policy.ProtocolUnset} {
			r := newRig(t, HTTP)
			r.http = func(req *policy.Request) policy.HTTPDecision {
				u := upstreamOf(req.Host)
				u.Protocol = proto
				return policy.HTTPDecision{Decision: allowed, Upstream: u}
			}
			r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
				body, _ := io.ReadAll(req.Body)
				w.Header().Set("Trailer", "X-Sum")
				fmt.Fprintf(w, "%d %s %s %s", req.ProtoMajor, req.Host, req.RequestURI, body)
				w.Header().Set("X-Sum", req.Trailer.Get("X-Check"))
			})
			req, err := http.NewRequest("POST", "http://a.example/p%20q?x", io.MultiReader(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			req.Trailer = http.Header{"X-Check": {"7"}}
			resp, err := r.client(down == 2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			up := map[policy.Protocol]int{policy.ProtocolHTTP: 1, policy.ProtocolHTTP2: 2, policy.ProtocolUnset: down}[proto]
			want := fmt.Sprintf("%d a.example /p%%20q?x body", up)
			if err != nil || string(got) != want || resp.Trailer.Get("X-Sum") != "7" || resp.ProtoMajor != down {
				t.Errorf("down %d, %s: %q, trailer %v, %v; want %q", down, proto, got, resp.Trailer, err, want)
			}
			e := r.sink.wait(t, flow.Request, 1)
			if e.Method != "POST" || e.Path != "/p%20q" || e.Status != 200 || e.Name != "a.example" || !e.Allowed || e.BytesSent != 4 || !e.Upstream.IsValid() {
				t.Errorf("event %+v", e)
			}
		}
	}
}

// TestEachRequestIsDecided sends several hosts over one connection.
func TestEachRequestIsDecided(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		r := newRig(t, Sniff)
		r.http = func(req *policy.Request) policy.HTTPDecision {
			if req.Host != "a.example" {
				return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
			}
			return policy.HTTPDecision{Decision: allowed, Upstream: upstreamOf(req.Host)}
		}
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, "ok") })
		c := r.client(http2)
		for i, host := range []string{"a.example", "evil.example", "a.example"} {
			req, err := http.NewRequest("GET", "http://a.example/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host // the same connection serves all
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := 200
			if i == 1 {
				want = 502
			}
			if resp.StatusCode != want {
				t.Errorf("http2 %v, %s: %d %s", http2, host, resp.StatusCode, body)
			}
			if i == 1 && string(body) != "egressd: evil.example is not allowed (name-not-allowed)" {
				t.Errorf("body %q", body)
			}
		}
		if e := r.sink.wait(t, flow.Request, 2); e.Allowed || e.Reason != policy.ReasonName || e.Name != "evil.example" || e.Status != 502 {
			t.Errorf("event %+v", e)
		}
		if n := len(r.sink.all(flow.Decision)); n != 1 {
			t.Errorf("%d connections; the test wants one", n)
		}
		if n := r.dialCount("evil.example"); n != 0 {
			t.Errorf("the denied host was dialled %d times", n)
		}
	}
}

func TestBadRequests(t *testing.T) {
	tests := []struct{ name, request string }{
		{"no host", "GET / HTTP/1.0\r\n\r\n"},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n"},
		{"userinfo", "GET / HTTP/1.1\r\nHost: a.example@evil.example\r\n\r\n"},
		{"bad port", "GET / HTTP/1.1\r\nHost: a.example:x\r\n\r\n"},
		{"NUL", "GET / HTTP/1.1\r\nHost: a.example\x00.evil.example\r\n\r\n"},
		{"connect", "CONNECT evil.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"absolute target", "GET http://evil.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n"},
		{"bad version", "GET / HTTP/9\r\nHost: a.example\r\n\r\n"},
		{"smuggled length", "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc"},
		{"unknown coding", "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
		{"space before colon", "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n"},
		{"header too large", "GET / HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("x", 2*http1.MaxRequestHead) + "\r\n\r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, HTTP)
			asked := false
			r.http = func(*policy.Request) policy.HTTPDecision {
				asked = true
				return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
			}
			nc := r.dial()
			go func() { _, _ = io.WriteString(nc, tt.request) }() // the answer may come before all is read
			line, err := bufio.NewReader(nc).ReadString('\n')
			if err != nil || !strings.Contains(line, " 4") && !strings.Contains(line, " 5") {
				t.Errorf("answer %q, %v", line, err)
			}
			if e := r.sink.wait(t, flow.Close, 1); e.Kind != flow.Close {
				t.Errorf("close %+v", e)
			}
			if asked {
				t.Error("a bad request reached the decider")
			}
		})
	}
}

// TestLengthAndChunked: RFC 9112, 6.1 has the coding win; the length must not
// reach the origin.
func TestLengthAndChunked(t *testing.T) {
	r := newRig(t, HTTP)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%d %q", req.ContentLength, body)
	})
	nc := r.dial()
	write(t, nc, "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 30\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == 200 && string(body) != `-1 "abc"` {
		t.Errorf("the origin saw %s", body)
	}
}

func TestNoRoute(t *testing.T) {
	r := newRig(t, HTTP)
	r.layer = flow.Ingress
	r.http = func(*policy.Request) policy.HTTPDecision {
		return policy.HTTPDecision{Decision: denied(policy.ReasonNoRoute, nil)}
	}
	if resp, _ := get(t, r.client(false), "http://a.example/"); resp.StatusCode != 404 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestGRPCDenial(t *testing.T) {
	r := newRig(t, HTTP)
	r.http = func(*policy.Request) policy.HTTPDecision {
		return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
	}
	req, err := http.NewRequest("POST", "http://a.example/s/m", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	resp, err := r.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Grpc-Status") != "7" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

func TestWebSocket(t *testing.T) {
	r := newRig(t, HTTP)
	ended := make(chan struct{})
	r.origin("a.example", func(nc *net.TCPConn) {
		defer close(ended)
		br := bufio.NewReader(nc)
		req, err := http.ReadRequest(br)
		if err != nil || req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Connection") != "keep-alive, Upgrade" {
			t.Errorf("request %+v, %v", req, err)
			return
		}
		_, _ = io.WriteString(nc, "HTTP/1.1 101 Los\r\nupgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\nfirst")
		_, _ = io.Copy(nc, br) // echo until the client's end
		_, _ = io.WriteString(nc, "bye")
	})
	nc := r.dial()
	write(t, nc, "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nearly")
	br := bufio.NewReader(nc)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "x" {
		t.Fatalf("%+v, %v", resp, err)
	}
	write(t, nc, " echo")
	if err := nc.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(br)
	if err != nil || string(got) != "firstearly echobye" {
		t.Errorf("read %q, %v", got, err)
	}
	receive(t, ended)
	if e := r.sink.wait(t, flow.Request, 1); e.Status != 101 || e.BytesSent != 10 || e.BytesReceived != 18 {
		t.Errorf("event %+v", e)
	}
}

// TestNoUpgradeToHTTP: requests inside an upgraded connection would not be
// decided, so the upgrade is not asked for.
func TestNoUpgradeToHTTP(t *testing.T) {
	for _, upgrade := range []string{"h2c", "H2C", "HTTP/2.0", "TLS/1.0", "websocket, h2c"} {
		r := newRig(t, HTTP)
		r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) {
			fmt.Fprint(w, req.Header["Connection"], req.Header["Upgrade"], req.Header["Http2-Settings"])
		})
		nc := r.dial()
		write(t, nc, "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: "+upgrade+"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 || string(body) != "[] [] []" {
			t.Errorf("%s: %d, the origin got %s", upgrade, resp.StatusCode, body)
		}
	}
}

func TestPolicyChangeEndsRequests(t *testing.T) {
	r := newRig(t, HTTP)
	started := make(chan struct{}, 2)
	r.httpOrigin("bad.example", func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		started <- struct{}{}
		<-req.Context().Done()
	})
	r.httpOrigin("good.example", func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, "ok") })
	c := r.client(true) // one connection for both
	resp, err := c.Get("http://bad.example/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	receive(t, started)
	r.change(func() {
		r.http = func(req *policy.Request) policy.HTTPDecision {
			if req.Host == "bad.example" {
				return policy.HTTPDecision{Decision: denied(policy.ReasonName, nil)}
			}
			return policy.HTTPDecision{Decision: allowed, Upstream: upstreamOf(req.Host)}
		}
	})
	r.core.Recheck()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the stream of a denied host ended in good order")
	}
	if e := r.sink.wait(t, flow.Request, 1); e.Reason != policy.ReasonPolicyChanged || e.Allowed || e.Status != 200 {
		t.Errorf("event %+v", e)
	}
	if resp, body := get(t, c, "http://good.example/"); resp.StatusCode != 200 || body != "ok" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestSlowHeader(t *testing.T) {
	r := newRig(t, HTTP, func(o *Options) { o.PeekTimeout = 50 * time.Millisecond })
	nc := r.dial()
	write(t, nc, "GET / HTTP/1.1\r\nHost:")
	_, _ = io.Copy(io.Discard, nc) // until the core gives up
	if e := r.sink.wait(t, flow.Close, 1); e.Reason != policy.ReasonPeekTimeout {
		t.Errorf("close %+v", e)
	}
}

func BenchmarkHTTPKeepAlive(b *testing.B) {
	r := newRig(b, HTTP)
	r.httpOrigin("a.example", func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, "ok") })
	c := r.client(false)
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Get("http://a.example/")
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// TestGRPCAnswers: what a rule answers itself is a status for gRPC clients, with
// the rule's text and headers.
func TestGRPCAnswers(t *testing.T) {
	for _, tt := range []struct {
		rule    *policy.HTTPRule
		status  string
		message string
	}{
		{&policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 503, Body: []byte("in maintenance")}}, "14", "in%20maintenance"},
		{&policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 401}}, "16", ""},
		{&policy.HTTPRule{DirectResponse: &policy.DirectResponse{Status: 403}}, "7", ""},
		{&policy.HTTPRule{Redirect: &policy.Redirect{URI: "/n"}}, "2", ""},
		{&policy.HTTPRule{Route: to("a.example"), Fault: &policy.Fault{AbortStatus: 404, AbortGRPC: -1, AbortPercent: 100}}, "12", "fault%20filter%20abort"},
	} {
		r := newRig(t, HTTP)
		tt.rule.Headers = &policy.Headers{Response: policy.HeaderOps{Set: []policy.Header{{Name: "X-Rule", Value: "1"}}}}
		r.compiled(services("a.example"), tt.rule)
		req, _ := http.NewRequest("POST", "http://a.example/x.Y/Z", nil)
		req.Header.Set("Content-Type", "application/grpc")
		resp, err := r.client(true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		h := resp.Header
		if resp.StatusCode != 200 || h.Get("Grpc-Status") != tt.status || h.Get("Grpc-Message") != tt.message || h.Get("Server") != "egressd" ||
			(h.Get("X-Rule") == "") != (tt.rule.Fault != nil) {
			t.Errorf("%+v: %d %v", tt.rule, resp.StatusCode, h)
		}
	}
}
