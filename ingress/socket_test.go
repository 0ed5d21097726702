// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/policy"
)

// atSocket is a server at a unix socket.
func atSocket(path, protocol, more string) string {
	return fmt.Sprintf("  - {port: {number: 0, name: %q, protocol: %s}, bind: \"unix://%s\", hosts: [\"*\"]%s}\n", filepath.Base(path), protocol, path, more)
}

// newSockets is a gateway that may have sockets in a directory of its own.
func newSockets(t *testing.T) (r *rig, dir, backend string) {
	t.Helper()
	dir, backend = t.TempDir(), origin(t)
	r = newGateway(t, yaml(backend, "", plain(freePort(t))))
	r.o.SocketDir = dir
	return r, dir, backend
}

// told is what the origin saw of a request by a socket.
func told(t *testing.T, socket string, args ...string) seen {
	t.Helper()
	out, ok := curl(t, append([]string{"--unix-socket", socket}, args...)...)
	var got seen
	if err := json.Unmarshal([]byte(out), &got); !ok || err != nil {
		t.Fatalf("%s: %s (%v)", socket, out, err)
	}
	return got
}

// asks writes bytes to a socket and returns all that comes back.
func asks(t *testing.T, socket, text string) string {
	t.Helper()
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, text)
	all, _ := io.ReadAll(c) // a reset is an answer as well
	return string(all)
}

const getOnce = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

// TestSocketHTTP: a Gateway's unix socket serves HTTP. Its visitors have no address, so
// that what they say of themselves counts where a proxy before egressd is trusted, and
// else not; whom policies with addresses are about they are not.
func TestSocketHTTP(t *testing.T) {
	r, dir, backend := newSockets(t)
	at := filepath.Join(dir, "web.sock")
	apply := func(annotation, more string) { r.apply(t, yaml(backend, annotation, atSocket(at, "HTTP", ""))+more) }
	apply("", "")
	if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v %v", info, err)
	}
	sent := []string{"-H", "X-Forwarded-For: 198.51.100.1, 198.51.100.2", "-H", "X-Forwarded-Proto: https", "-H", "X-Envoy-External-Address: 6.6.6.6", "http://any.example/x"}
	h := told(t, at, sent...).Header
	if h.Get("X-Forwarded-For") != "" || h.Get("X-Envoy-External-Address") != "" || h.Get("X-Envoy-Internal") != "" || h.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("a visitor's word counts: %v", h)
	}
	for _, e := range r.events.Recent() {
		if e.Kind == flow.Request && (e.Socket != at || e.Dst.IsValid()) {
			t.Errorf("event %+v", e)
		}
	}
	apply(topology("numTrustedProxies: 2"), "")
	h = told(t, at, sent...).Header
	if h.Get("X-Forwarded-For") != "198.51.100.1, 198.51.100.2" || h.Get("X-Envoy-External-Address") != "198.51.100.1" || h.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the trusted proxies' word does not count: %v", h)
	}
	only := func(action, key, block string) string {
		return fmt.Sprintf("---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: only, namespace: default}\n"+
			"spec: {action: %s, rules: [{from: [{source: {%s: [%q]}}]}]}\n", action, key, block)
	}
	for _, c := range []struct {
		action, key, block, status string
	}{
		{"ALLOW", "ipBlocks", "0.0.0.0/0", "403"}, {"ALLOW", "notIpBlocks", "192.0.2.0/24", "403"}, {"DENY", "ipBlocks", "192.0.2.0/24", "403"},
		{"ALLOW", "remoteIpBlocks", "198.51.100.1/32", "200"}, {"ALLOW", "remoteIpBlocks", "198.51.100.2/32", "403"},
		{"DENY", "remoteIpBlocks", "198.51.100.1/32", "403"}, {"DENY", "remoteIpBlocks", "198.51.100.2/32", "200"},
	} {
		apply(topology("numTrustedProxies: 2"), only(c.action, c.key, c.block))
		if out, _ := curl(t, append([]string{"-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", at}, sent...)...); out != c.status {
			t.Errorf("%s %s %s: %s, want %s", c.action, c.key, c.block, out, c.status)
		}
	}
	apply(topology("proxyProtocol: {}"), "")
	if out := asks(t, at, "PROXY TCP4 192.0.2.7 127.0.0.1 4000 80\r\n"+getOnce); !strings.Contains(out, `"192.0.2.7"`) {
		t.Errorf("with a PROXY header: %s", out)
	}
	if out := asks(t, at, getOnce); out != "" {
		t.Errorf("without the PROXY header: %s", out)
	}
	r.apply(t, yaml(backend, "", plain(freePort(t))))
	if _, err := os.Lstat(at); !os.IsNotExist(err) {
		t.Errorf("the socket of a Gateway that is gone: %v", err)
	}
}

// TestSocketTLS: TLS ends at a unix socket as it does at a port, and bytes pass one.
func TestSocketTLS(t *testing.T) {
	r, dir, backend := newSockets(t)
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	pair := ca.issue(t, dir, "s.example.com", nil, false)
	secure, raw := filepath.Join(dir, "tls.sock"), filepath.Join(dir, "raw.sock")
	r.apply(t, yaml(backend, "", atSocket(secure, "HTTPS", fmt.Sprintf(", tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}", pair.certAt, pair.keyAt))+
		atSocket(raw, "TCP", "")))
	for _, version := range []string{"--http2", "--http1.1"} {
		if got := told(t, secure, version, "--cacert", roots, "https://s.example.com/x"); got.Path != "/x" || got.Header.Get("X-Forwarded-Proto") != "https" {
			t.Errorf("%s: %+v", version, got)
		}
	}
	if out, ok := curl(t, "--unix-socket", secure, "--cacert", roots, "-o", "/dev/null", "-w", "%{http_code}", "-H", "Host: other.example.com", "https://s.example.com/"); !ok || out != "200" {
		t.Errorf("the server for all hosts: %s", out)
	}
	if out := asks(t, raw, getOnce); !strings.HasPrefix(out, "HTTP/1.1 200 ") {
		t.Errorf("bytes: %q", out)
	}
	if out := asks(t, secure, getOnce); strings.HasPrefix(out, "HTTP/1.1 200 ") {
		t.Errorf("plain text where TLS is spoken: %q", out)
	}
}

// TestSocketModes: TLS passes a unix socket by its SNI, and ends at one that asks for a
// client certificate, as at ports; what is asked there is asked of everybody.
func TestSocketModes(t *testing.T) {
	r, dir, backend := newSockets(t)
	ca, others := newAuthority(t, "ca", nil), newAuthority(t, "others", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	pair := ca.issue(t, dir, "s.example.com", nil, false)
	client, stranger := ca.issue(t, dir, "client", nil, false), others.issue(t, dir, "stranger", nil, false)
	behind := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "behind ", r.TLS.ServerName) }))
	keys, err := tls.LoadX509KeyPair(pair.certAt, pair.keyAt)
	if err != nil {
		t.Fatal(err)
	}
	behind.TLS = &tls.Config{Certificates: []tls.Certificate{keys}}
	behind.StartTLS()
	t.Cleanup(behind.Close)
	_, port, _ := net.SplitHostPort(behind.Listener.Addr().String())
	pass, mutual := filepath.Join(dir, "pass.sock"), filepath.Join(dir, "mutual.sock")
	r.apply(t, yaml(backend, "", atSocket(pass, "TLS", ", tls: {mode: PASSTHROUGH}")+
		atSocket(mutual, "HTTPS", fmt.Sprintf(", tls: {mode: MUTUAL, serverCertificate: %q, privateKey: %q, caCertificates: %q}", pair.certAt, pair.keyAt, roots)))+`---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: behind, namespace: default}
spec:
  hosts: [behind.internal]
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}]
  endpoints: [{address: 127.0.0.1, ports: {tls: `+port+`}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: behind, namespace: default}
spec:
  hosts: [s.example.com]
  gateways: [gw]
  tls: [{match: [{sniHosts: [s.example.com]}], route: [{destination: {host: behind.internal, port: {number: 443}}}]}]
`)
	if out, ok := curl(t, "--unix-socket", pass, "--cacert", roots, "https://s.example.com/"); !ok || out != "behind s.example.com" {
		t.Errorf("passed through: %s", out)
	}
	if out, ok := curl(t, "--unix-socket", pass, "--insecure", "https://other.example.com/"); ok {
		t.Errorf("an SNI of no rule: %s", out)
	}
	as := func(c *issued) []string {
		return []string{"--unix-socket", mutual, "--cacert", roots, "--cert", c.certAt, "--key", c.keyAt, "https://s.example.com/x"}
	}
	if got := told(t, mutual, as(client)[2:]...); got.Path != "/x" || !strings.Contains(got.Header.Get("X-Forwarded-Client-Cert"), "CN=client") {
		t.Errorf("with a certificate: %+v", got)
	}
	if out, ok := curl(t, as(stranger)...); ok {
		t.Errorf("with another CA's certificate: %s", out)
	}
	if out, ok := curl(t, "--unix-socket", mutual, "--cacert", roots, "https://s.example.com/x"); ok {
		t.Errorf("without a certificate: %s", out)
	}
	r.denied(t, policy.ReasonClientCertificate, "")
	r.denied(t, policy.ReasonName, "")
}

// TestSocketPlaces: sockets are where the operator lets them be, what others have there
// stays, and a file that nobody listens at is replaced.
func TestSocketPlaces(t *testing.T) {
	r, dir, backend := newSockets(t)
	skipped := func(at, why string) {
		t.Helper()
		r.apply(t, yaml(backend, "", atSocket(at, "HTTP", "")))
		if s := strings.Join(r.Skipped(), "\n"); !strings.Contains(s, "unix:"+at+" is not open") || !strings.Contains(s, why) {
			t.Errorf("%s: %q, want %q", at, s, why)
		}
	}
	elsewhere := filepath.Join(t.TempDir(), "web.sock")
	skipped(elsewhere, "it is not in "+dir)
	skipped(dir+"-beside/web.sock", "it is not in "+dir)
	if _, err := os.Lstat(elsewhere); !os.IsNotExist(err) {
		t.Errorf("a socket outside of the directory: %v", err)
	}

	file := put(t, dir, "file", []byte("kept"))
	skipped(file, "no socket; it stays as it is")
	if b, err := os.ReadFile(file); err != nil || string(b) != "kept" {
		t.Errorf("the file: %q %v", b, err)
	}

	at := filepath.Join(dir, "web.sock")
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	skipped(at, fmt.Sprintf("another process listens there (process %d (", os.Getpid()))
	other.SetUnlinkOnClose(false)
	other.Close()
	r.apply(t, yaml(backend, "", atSocket(at, "HTTP", "")))
	if s := r.Skipped(); len(s) > 0 {
		t.Errorf("a file that nobody listens at is not replaced: %v", s)
	}
	told(t, at, "http://x/")

	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	skipped(filepath.Join(open, "web.sock"), "somebody else could replace")

	r.o.SocketDir = ""
	skipped(filepath.Join(dir, "more.sock"), "--gateway-socket-dir")
}

// TestSocketHandedOver: who connects while one daemon hands over to the next is served
// by that, at the same file; when nobody goes on, the file goes.
func TestSocketHandedOver(t *testing.T) {
	r, dir, backend := newSockets(t)
	at := filepath.Join(dir, "web.sock")
	text := yaml(backend, "", atSocket(at, "HTTP", ""))
	r.apply(t, text)
	kept := &handover.SocketSet{}
	var failed error
	r.Listeners(func(c syscall.Conn) { failed = kept.Add("gateway", c) })
	if failed != nil || kept.Len() != 1 {
		t.Fatalf("%d sockets, %v", kept.Len(), failed)
	}
	before, err := os.Lstat(at)
	if err != nil {
		t.Fatal(err)
	}
	r.Pause()
	waiting := make(chan string, 1)
	c, err := net.Dial("unix", at)
	if err != nil {
		t.Fatalf("nobody takes connections in between: %v", err)
	}
	defer c.Close()
	go func() {
		_, _ = io.WriteString(c, getOnce)
		all, _ := io.ReadAll(c)
		waiting <- string(all)
	}()

	heir, _, _ := newSockets(t)
	heir.o.SocketDir = dir
	heir.o.InheritedUnix = func(path string) *net.UnixListener { return kept.Unix("gateway", path) }
	heir.apply(t, text)
	if out := <-waiting; !strings.HasPrefix(out, "HTTP/1.1 200 ") {
		t.Errorf("who came in between: %q", out)
	}
	if now, err := os.Lstat(at); err != nil || !os.SameFile(before, now) {
		t.Errorf("the file is another one: %v", err)
	}
	heir.Pause()
	heir.RemoveSockets()
	if _, err := os.Lstat(at); !os.IsNotExist(err) {
		t.Errorf("the file is left behind: %v", err)
	}
}
