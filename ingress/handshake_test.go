// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// secure is a gateway that answers over TLS, and where it is.
func secure(b *testing.B) (at string, config *tls.Config) {
	dir := b.TempDir()
	ca := newAuthority(b, "ca", nil)
	s := ca.issue(b, dir, "s.example.com", nil, false)
	port := freePort(b)
	newGateway(b, fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app, namespace: default}
spec:
  hosts: ["*"]
  gateways: [gw]
  http: [{directResponse: {status: 200, body: {string: hello}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: ["*"], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}}
`, port, s.certAt, s.keyAt))
	return fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "s.example.com", InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"http/1.1"}}
}

// BenchmarkTerminated is a request on a connection that stays. The client's share is
// about half of it: profile it with -cpuprofile.
func BenchmarkTerminated(b *testing.B) {
	at, config := secure(b)
	c, err := tls.Dial("tcp", at, config)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request, answer := []byte("GET / HTTP/1.1\r\nHost: s.example.com\r\n\r\n"), make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(answer); err != nil || !strings.HasSuffix(string(answer[:n]), "hello") {
			b.Fatalf("%v: %s", err, answer[:n])
		}
	}
}

// BenchmarkHandshake is a full handshake and one request.
func BenchmarkHandshake(b *testing.B) {
	at, config := secure(b)
	b.ReportAllocs()
	for b.Loop() {
		c, err := tls.Dial("tcp", at, config)
		if err != nil {
			b.Fatal(err)
		}
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: s.example.com\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			b.Fatal(resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		c.Close()
	}
}
