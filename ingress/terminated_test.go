// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
)

// get asks for a path on a connection that is kept.
func get(c net.Conn, r *bufio.Reader, path string) (string, error) {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: s.example.com\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// TestPolicyChangesUnderTLS: a connection whose TLS has ended here stays while it is
// allowed, and ends when its server begins to ask for a certificate that it has not
// shown.
func TestPolicyChangesUnderTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	s := ca.issue(t, dir, "s.example.com", nil, false)
	own := ca.issue(t, dir, "own", nil, false)
	backend, port := origin(t), freePort(t)
	of := func(mode string, more string) string {
		return yaml(backend, more, fmt.Sprintf("  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: [s.example.com], tls: {mode: %s, serverCertificate: %q, privateKey: %q, caCertificates: %q}}\n", port, mode, s.certAt, s.keyAt, roots))
	}
	r := newGateway(t, of("OPTIONAL_MUTUAL", ""))
	dial := func(with ...tls.Certificate) (*tls.Conn, *bufio.Reader) {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "s.example.com", RootCAs: pool, Certificates: with})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, bufio.NewReader(c)
	}
	anonymous, ar := dial()
	known, kr := dial(tls.Certificate{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.certificateKey})
	both := func(when string, first bool) {
		t.Helper()
		if body, err := get(known, kr, "/known"); err != nil || !strings.Contains(body, "/known") {
			t.Errorf("%s: with a certificate: %q, %v", when, body, err)
		}
		if body, err := get(anonymous, ar, "/anonymous"); (err == nil && strings.Contains(body, "/anonymous")) != first {
			t.Errorf("%s: without: %q, %v", when, body, err)
		}
	}
	both("at first", true)
	r.apply(t, of("OPTIONAL_MUTUAL", topology("numTrustedProxies: 1")))
	both("another policy", true)
	r.apply(t, of("MUTUAL", ""))
	both("MUTUAL", false)
	r.denied(t, policy.ReasonPolicyChanged, "")
}

// TestSessionsStayApart: a session of one server is resumed there, and at no other.
func TestSessionsStayApart(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	s := ca.issue(t, dir, "s", func(c *x509.Certificate) { c.DNSNames = []string{"*.example.com"} }, false)
	port := freePort(t)
	files := fmt.Sprintf("serverCertificate: %q, privateKey: %q", s.certAt, s.keyAt)
	newGateway(t, yaml(origin(t), "", fmt.Sprintf(`  - {port: {number: %d, name: open, protocol: HTTPS}, hosts: [open.example.com], tls: {mode: SIMPLE, %s}}
  - {port: {number: %d, name: shut, protocol: HTTPS}, hosts: [shut.example.com], tls: {mode: MUTUAL, %s, caCertificates: %q}}
`, port, files, port, files, roots)))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cache := &oneSession{}
		ask := func(name string) (resumed bool, err error) {
			c, err := tls.Dial("tcp", fmt.Sprintf("[::1]:%d", port), &tls.Config{ServerName: name, RootCAs: pool, ClientSessionCache: cache, MaxVersion: version})
			if err != nil {
				return false, err
			}
			defer c.Close()
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n")
			all, err := io.ReadAll(c) // with the session tickets of TLS 1.3
			if err == nil && !strings.Contains(string(all), " 200 ") {
				err = fmt.Errorf("%s", all)
			}
			return c.ConnectionState().DidResume, err
		}
		for _, want := range []bool{false, true} {
			if resumed, err := ask("open.example.com"); err != nil || resumed != want {
				t.Errorf("%x: resumed %v, %v, want %v", version, resumed, err, want)
			}
		}
		if _, err := ask("shut.example.com"); err == nil {
			t.Errorf("%x: the session of one server is good for another", version)
		}
	}
}

// oneSession offers the last session to every server.
type oneSession struct{ state *tls.ClientSessionState }

func (c *oneSession) Get(string) (*tls.ClientSessionState, bool)  { return c.state, c.state != nil }
func (c *oneSession) Put(_ string, state *tls.ClientSessionState) { c.state = state }

// TestTLSToTCP: within the TLS of a server of protocol TLS are bytes, which go where
// the rule for TCP leads, with both ends as they come.
func TestTLSToTCP(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				all, _ := io.ReadAll(c) // to the client's end
				_, _ = io.WriteString(c, "had "+string(all))
			}()
		}
	}()
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	s := ca.issue(t, dir, "s.example.com", nil, false)
	port := freePort(t)
	newGateway(t, yaml(echo.Addr().String(), "", fmt.Sprintf("  - {port: {number: %d, name: tls, protocol: TLS}, hosts: [s.example.com], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}}\n", port, s.certAt, s.keyAt)))
	for _, at := range loopbacks {
		c, err := tls.Dial("tcp", net.JoinHostPort(at, fmt.Sprint(port)), &tls.Config{ServerName: "s.example.com", RootCAs: pool})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		text := strings.Repeat("bytes ", 100000)
		_, _ = io.WriteString(c, text)
		_ = c.CloseWrite()
		if all, err := io.ReadAll(c); err != nil || string(all) != "had "+text {
			t.Errorf("%s: %d bytes, %v", at, len(all), err)
		}
		c.Close()
	}
}

// TestVisitorsProtocol: a visitor's HTTP/2 ends here, and a backend whose port has no
// protocol is spoken to in HTTP/1.1; gRPC, which has HTTP/2 alone, in HTTP/2.
func TestVisitorsProtocol(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	s := ca.issue(t, dir, "a.example.com", nil, false)
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{Proto: r.Proto})
	}))
	backend.Config.Protocols = new(http.Protocols)
	backend.Config.Protocols.SetHTTP1(true)
	backend.Config.Protocols.SetUnencryptedHTTP2(true)
	backend.Start()
	t.Cleanup(backend.Close)
	port := freePort(t)
	text := yaml(backend.Listener.Addr().String(), "", fmt.Sprintf("  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}}\n", port, s.certAt, s.keyAt))
	for _, c := range []struct{ protocol, visitor, content, want string }{
		{"", "--http2", "text/plain", "HTTP/1.1"},
		{"", "--http2", "application/grpc", "HTTP/2.0"},
		{"", "--http1.1", "text/plain", "HTTP/1.1"},
		{"HTTP", "--http2", "application/grpc", "HTTP/1.1"},
		{"HTTP2", "--http1.1", "text/plain", "HTTP/2.0"},
	} {
		t.Run(c.protocol+c.visitor+c.content, func(t *testing.T) {
			r := newGateway(t, strings.Replace(text, "protocol: HTTP}, {number: 81", fmt.Sprintf("protocol: %q}, {number: 81", c.protocol), 1))
			got, out, ok := visit(t, "127.0.0.1", port, "a.example.com", c.visitor, "--cacert", roots, "-H", "Content-Type: "+c.content)
			if !ok || got.Proto != c.want {
				t.Errorf("%v %s, want %s", ok, out, c.want)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = r.Shutdown(ctx) // another one takes the port
		})
	}
}
