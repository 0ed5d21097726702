// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
)

// seen is what the origin of a test says of a request.
type seen struct {
	Host, Path string
	Proto      string
	Header     http.Header
}

// origin answers with what it has seen.
func origin(t testing.TB) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(seen{r.Host, r.URL.Path, r.Proto, r.Header})
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// yaml is a Gateway with servers, in YAML, and a VirtualService of all hosts that leads
// to a backend.
func yaml(backend, annotations, servers string) string {
	host, port, _ := net.SplitHostPort(backend)
	return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: app, namespace: default}
spec:
  hosts: [app.internal]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: tcp, protocol: TCP}]
  endpoints: [{address: %s, ports: {http: %s, tcp: %s}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: app, namespace: default}
spec:
  hosts: ["*"]
  gateways: [gw]
  http: [{route: [{destination: {host: app.internal, port: {number: 80}}}]}]
  tcp: [{route: [{destination: {host: app.internal, port: {number: 81}}}]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default, annotations: {%s}}
spec:
  selector: {istio: ingressgateway}
  servers:
%s`, host, port, port, annotations, servers)
}

// visit is curl for https://HOST:PORT/x at an address.
func visit(t testing.TB, at string, port uint16, host string, args ...string) (seen, string, bool) {
	t.Helper()
	address := at
	if strings.Contains(at, ":") {
		address = "[" + at + "]"
	}
	out, ok := curl(t, append(args, "--resolve", fmt.Sprintf("%s:%d:%s", host, port, address), fmt.Sprintf("https://%s:%d/x", host, port))...)
	var got seen
	if ok {
		_ = json.Unmarshal([]byte(out), &got)
	}
	return got, out, ok
}

var loopbacks = []string{"127.0.0.1", "::1"}

// TestTerminate: TLS ends at the server that the SNI chooses, the exact one before
// the wildcard, with its own certificate; what is within is HTTP/2 or HTTP/1, and
// goes on as any request. One server's broken certificate is its own matter.
func TestTerminate(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	intermediate := newAuthority(t, "intermediate", ca)
	roots := put(t, dir, "ca.pem", ca.pem)
	exact := intermediate.issue(t, dir, "a.example.com", nil, false) // with its chain
	wild := ca.issue(t, dir, "*.example.com", nil, false)
	withRSA := ca.issue(t, dir, "both.example.com", nil, true)
	both := ca.issue(t, dir, "both.example.com.", func(c *x509.Certificate) { c.DNSNames = []string{"both.example.com"} }, false)
	port := freePort(t)
	server := func(host, tls string) string {
		return fmt.Sprintf("  - {port: {number: %d, name: %q, protocol: HTTPS}, hosts: [%q], tls: {%s}}\n", port, "https-"+host, host, tls)
	}
	pair := func(i *issued) string {
		return fmt.Sprintf("serverCertificate: %q, privateKey: %q", i.certAt, i.keyAt)
	}
	r := newGateway(t, yaml(origin(t), "", server("*.example.com", "mode: SIMPLE, "+pair(wild))+
		server("a.example.com", "mode: SIMPLE, "+pair(exact))+
		server("both.example.com", fmt.Sprintf("mode: SIMPLE, tlsCertificates: [{%s}, {%s}]", pair(withRSA), pair(both)))+
		server("broken.example.com", fmt.Sprintf("mode: SIMPLE, serverCertificate: %q, privateKey: %q", exact.certAt, wild.keyAt))+
		server("secret.example.com", "mode: SIMPLE, credentialName: none")))
	for _, at := range loopbacks {
		for _, host := range []string{"a.example.com", "x.example.com", "both.example.com"} {
			for _, version := range []string{"--http2", "--http1.1"} {
				got, out, ok := visit(t, at, port, host, version, "--cacert", roots, "-H", "X-Forwarded-Proto: http", "-H", "X-Forwarded-Client-Cert: me")
				if !ok || got.Path != "/x" || got.Header.Get("X-Forwarded-Proto") != "https" || got.Header.Get("X-Forwarded-Client-Cert") != "" {
					t.Errorf("%s at %s %s: %v %s", host, at, version, ok, out)
				}
			}
		}
		if out, _ := curl(t, "-o", "/dev/null", "-w", "%{http_version}", "--cacert", roots, "--resolve", fmt.Sprintf("a.example.com:%d:127.0.0.1", port), fmt.Sprintf("https://a.example.com:%d/", port)); out != "2" {
			t.Errorf("ALPN chose HTTP/%s", out)
		}
		for _, host := range []string{"broken.example.com", "secret.example.com", "other.com"} {
			if _, out, ok := visit(t, at, port, host, "--insecure"); ok {
				t.Errorf("%s at %s: %s", host, at, out)
			}
		}
	}
	r.denied(t, policy.ReasonCertificate, "Secret default/none")
	r.denied(t, policy.ReasonCertificate, "cannot be used")
	r.denied(t, policy.ReasonName, "")
	if got := strings.Join(r.Skipped(), "\n"); strings.Count(got, "\n") != 1 || !strings.Contains(got, "https-broken") && !strings.Contains(got, "gateway default/gw") {
		t.Errorf("not served: %s", got)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	for suite, want := range map[string]string{"ECDHE-RSA-AES128-GCM-SHA256": "rsa", "ECDHE-ECDSA-AES128-GCM-SHA256": "ecdsa"} {
		out := openssl(t, "-connect", address, "-servername", "both.example.com", "-tls1_2", "-cipher", suite, "-CAfile", roots)
		kind := "ecdsa"
		if strings.Contains(out, "Peer signature type: RSA") || strings.Contains(strings.ToLower(out), "peer signature type: rsa") {
			kind = "rsa"
		}
		if kind != want || !strings.Contains(out, "Verify return code: 0 (ok)") {
			t.Errorf("%s: %s\n%s", suite, kind, out)
		}
	}
}

// TestKeysElsewhere: a Gateway in a file may have keys used that are below a
// --credentials-dir, and no others of the node; the certificate may be anywhere.
func TestKeysElsewhere(t *testing.T) {
	dir, keys := t.TempDir(), t.TempDir()
	ca := newAuthority(t, "ca", nil)
	a := ca.issue(t, dir, "a.example.com", nil, false)
	inside := put(t, keys, "a.key", a.key)
	port := freePort(t)
	policyFor := func(key string) string {
		return yaml(origin(t), "", fmt.Sprintf("  - {port: {number: %d, name: a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}}\n", port, a.certAt, key))
	}
	r := newGatewayKeys(t, policyFor(a.keyAt), keys)
	for _, key := range []string{a.keyAt, keys + "/../" + filepath.Base(dir) + "/a.example.com.key"} {
		r.apply(t, policyFor(key))
		for _, at := range loopbacks {
			if _, out, ok := visit(t, at, port, "a.example.com", "--insecure"); ok {
				t.Errorf("%s at %s: %s", key, at, out)
			}
		}
		if got := strings.Join(r.Skipped(), "\n"); !strings.Contains(got, "--credentials-dir") {
			t.Errorf("not served: %s", got)
		}
	}
	r.denied(t, policy.ReasonCertificate, "--credentials-dir")
	r.apply(t, policyFor(inside))
	for _, at := range loopbacks {
		if _, out, ok := visit(t, at, port, "a.example.com", "--insecure"); !ok {
			t.Errorf("below the directory, at %s: %s", at, out)
		}
	}
	if got := r.Skipped(); len(got) > 0 {
		t.Errorf("not served: %v", got)
	}
}

// openssl runs openssl s_client, which says what it has seen.
func openssl(t testing.TB, args ...string) string {
	t.Helper()
	testenv.RequireTool(t, "openssl")
	c := exec.CommandContext(t.Context(), "openssl", append([]string{"s_client"}, args...)...)
	c.Stdin = strings.NewReader("Q\n")
	out, _ := c.CombinedOutput() // what it says counts
	return string(out)
}

// TestMisdirected: a connection is for the hosts of the server that its SNI has
// chosen, and for no host of a server that asks more of its clients.
func TestMisdirected(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	all := ca.issue(t, dir, "all", func(c *x509.Certificate) { c.DNSNames = []string{"*.example.com", "a.example.com"} }, false)
	port := freePort(t)
	files := fmt.Sprintf("serverCertificate: %q, privateKey: %q", all.certAt, all.keyAt)
	r := newGateway(t, yaml(origin(t), "", fmt.Sprintf(`  - {port: {number: %d, name: open, protocol: HTTPS}, hosts: ["*.example.com"], tls: {mode: SIMPLE, %s}}
  - {port: {number: %d, name: shut, protocol: HTTPS}, hosts: [shut.example.com], tls: {mode: MUTUAL, %s, caCertificates: %q}}
`, port, files, port, files, roots)))
	for _, at := range loopbacks {
		for _, version := range []string{"--http2", "--http1.1"} {
			for host, want := range map[string]string{"x.example.com": "200", "y.example.com": "200", "shut.example.com": "421", "other.com": "421"} {
				_, out, ok := visit(t, at, port, "x.example.com", version, "--cacert", roots, "-H", "Host: "+host, "-o", "/dev/null", "-w", "%{http_code}")
				if !ok || out != want {
					t.Errorf("%s at %s for %s: %v %s, want %s", version, at, host, ok, out, want)
				}
			}
		}
	}
	r.denied(t, policy.ReasonMisdirected, "")
}

// TestMutual: who has no certificate that the server accepts has no request. What it
// shows, the origin is told.
func TestMutual(t *testing.T) {
	dir := t.TempDir()
	ca, others := newAuthority(t, "ca", nil), newAuthority(t, "others", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	s := ca.issue(t, dir, "m.example.com", func(c *x509.Certificate) { c.DNSNames = []string{"*.example.com"} }, false)
	good := ca.issue(t, dir, "good", spiffe("spiffe://cluster.local/ns/shop/sa/web"), false)
	plain := ca.issue(t, dir, "plain", nil, false)
	revoked := ca.issue(t, dir, "revoked", nil, false)
	stranger := others.issue(t, dir, "stranger", nil, false)
	old := ca.issue(t, dir, "old", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, false)
	below := newAuthority(t, "below", ca)
	deep, deepRevoked := below.issue(t, dir, "deep", nil, false), below.issue(t, dir, "deep-revoked", nil, false)
	later := time.Now().Add(time.Hour)
	own, ofBelow := ca.revoke(t, later, revoked.cert), below.revoke(t, later, deepRevoked.cert)
	crl := put(t, dir, "crl.pem", own)
	crls := put(t, dir, "crls.pem", slices.Concat(own, ofBelow))
	past := put(t, dir, "past.pem", slices.Concat(ca.revoke(t, time.Now().Add(-time.Minute)), ofBelow))
	cut := put(t, dir, "cut.pem", slices.Concat(ca.revoke(t, later, below.cert), ofBelow))
	port := freePort(t)
	server := func(name, mode, more string) string {
		return fmt.Sprintf("  - {port: {number: %d, name: %s, protocol: HTTPS}, hosts: [%s.example.com], tls: {mode: %s, serverCertificate: %q, privateKey: %q, caCertificates: %q%s}}\n",
			port, name, name, mode, s.certAt, s.keyAt, roots, more)
	}
	r := newGateway(t, yaml(origin(t), "", server("must", "MUTUAL", "")+server("may", "OPTIONAL_MUTUAL", "")+
		server("named", "MUTUAL", ", subjectAltNames: [spiffe://cluster.local/ns/shop/sa/web]")+
		server("listed", "MUTUAL", fmt.Sprintf(", caCrl: %q", crl))+server("lists", "MUTUAL", fmt.Sprintf(", caCrl: %q", crls))+
		server("past", "MUTUAL", fmt.Sprintf(", caCrl: %q", past))+server("cut", "OPTIONAL_MUTUAL", fmt.Sprintf(", caCrl: %q", cut))))
	for _, c := range []struct {
		host   string
		client *issued
		ok     bool
	}{
		{"must", good, true}, {"must", plain, true}, {"must", nil, false}, {"must", stranger, false}, {"must", old, false}, {"must", revoked, true},
		{"may", good, true}, {"may", nil, true}, {"may", stranger, false},
		{"named", good, true}, {"named", plain, false}, {"named", nil, false},
		{"must", deep, true}, {"must", deepRevoked, true},
		{"listed", good, true}, {"listed", revoked, false}, {"listed", deep, false}, // no list of the CA below
		{"lists", good, true}, {"lists", revoked, false}, {"lists", deep, true}, {"lists", deepRevoked, false},
		{"past", good, false}, {"past", deep, false},
		{"cut", good, true}, {"cut", deep, false}, {"cut", nil, true}, // the CA below is revoked
	} {
		for i, at := range loopbacks {
			version := []string{"--tlsv1.3", "--tls-max=1.2"}[i]
			args := []string{"--cacert", roots, "-H", "X-Forwarded-Client-Cert: Hash=forged"}
			if version == "--tlsv1.3" {
				args = append(args, version)
			} else {
				args = append(args, "--tls-max", "1.2")
			}
			name := "nobody"
			if c.client != nil {
				name = c.client.cert.Subject.CommonName
				args = append(args, "--cert", c.client.certAt, "--key", c.client.keyAt)
			}
			got, out, ok := visit(t, at, port, c.host+".example.com", args...)
			if ok != c.ok {
				t.Errorf("%s at %s of %s: %v %s", name, at, c.host, ok, out)
			}
			xfcc := got.Header.Get("X-Forwarded-Client-Cert")
			if ok && (c.client == nil) != (xfcc == "") || strings.Contains(xfcc, "forged") || c.client == good && ok && !strings.Contains(xfcc, ";URI=spiffe://cluster.local/ns/shop/sa/web;DNS=good") {
				t.Errorf("%s at %s of %s: the origin was told %q", name, at, c.host, xfcc)
			}
		}
	}
	r.denied(t, policy.ReasonClientCertificate, "didn't provide a certificate")
	r.denied(t, policy.ReasonClientCertificate, "unknown authority")
	r.denied(t, policy.ReasonClientCertificate, "revoked")
	r.denied(t, policy.ReasonClientCertificate, "there is no list of revoked certificates of CN=below")
	r.denied(t, policy.ReasonClientCertificate, "has run out")
	r.denied(t, policy.ReasonClientCertificate, "subjectAltNames")
}

// TestReload: what is put in a file or a Secret counts for new connections; old ones
// stay. What is broken replaces nothing, and a Secret that is gone denies.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	first, second := ca.issue(t, dir, "s.example.com", nil, false), ca.issue(t, t.TempDir(), "s.example.com", nil, false)
	port := freePort(t)
	r := newGateway(t, yaml(origin(t), "", fmt.Sprintf("  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: [s.example.com], tls: {mode: SIMPLE, credentialName: pair}}\n", port)))
	set := func(data map[string][]byte) {
		all := map[string]certs.Secret{}
		if data != nil {
			all["default/pair"] = data
		}
		r.stock.SetSecrets(all)
	}
	dial := func() (*tls.Conn, error) {
		return tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{ServerName: "s.example.com", RootCAs: pool})
	}
	if _, err := dial(); err == nil {
		t.Fatal("without a Secret there is TLS")
	}
	set(map[string][]byte{"tls.crt": first.chain, "tls.key": first.key})
	old, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if len(r.Skipped()) != 0 {
		t.Errorf("not served: %v", r.Skipped())
	}
	serial := func() string {
		c, err := dial()
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for _, step := range []struct {
		data map[string][]byte
		want string
	}{
		{map[string][]byte{"tls.crt": second.chain, "tls.key": second.key}, second.cert.SerialNumber.String()},
		{map[string][]byte{"tls.crt": first.chain, "tls.key": second.key}, second.cert.SerialNumber.String()}, // broken
		{map[string][]byte{"cert": first.chain, "key": first.key}, first.cert.SerialNumber.String()},
	} {
		set(step.data)
		if got := serial(); got != step.want {
			t.Errorf("%s, want %s", got, step.want)
		}
	}
	set(nil)
	if c, err := dial(); err == nil {
		c.Close()
		t.Error("a Secret that is gone still serves")
	}
	r.denied(t, policy.ReasonCertificate, "no such Secret")
	_, _ = io.WriteString(old, "GET /still HTTP/1.1\r\nHost: s.example.com\r\nConnection: close\r\n\r\n")
	if all, err := io.ReadAll(old); err != nil || !strings.Contains(string(all), "/still") {
		t.Errorf("the old connection: %q, %v", all, err)
	}
}

// TestVersions: a server has the versions and cipher suites that it is given.
func TestVersions(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	s := ca.issue(t, dir, "s", func(c *x509.Certificate) { c.DNSNames = []string{"*.example.com"} }, true)
	port := freePort(t)
	server := func(name, more string) string {
		return fmt.Sprintf("  - {port: {number: %d, name: %s, protocol: HTTPS}, hosts: [%s.example.com], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q%s}}\n", port, name, name, s.certAt, s.keyAt, more)
	}
	r := newGateway(t, yaml(origin(t), "", server("usual", "")+server("new", ", minProtocolVersion: TLSV1_3")+server("old", ", maxProtocolVersion: TLSV1_2")+
		server("one", ", maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384]")+
		server("none", ", cipherSuites: [TLS_AES_128_GCM_SHA256]")))
	for _, c := range []struct {
		host string
		args []string
		ok   bool
	}{
		{"usual", []string{"--tls-max", "1.2"}, true}, {"usual", []string{"--tlsv1.3"}, true}, {"usual", []string{"--tlsv1.0", "--tls-max", "1.1", "--ciphers", "ALL@SECLEVEL=0"}, false},
		{"new", []string{"--tls-max", "1.2"}, false}, {"new", []string{"--tlsv1.3"}, true},
		{"old", []string{"--tls-max", "1.2"}, true}, {"old", []string{"--tlsv1.3"}, false},
		{"one", []string{"--ciphers", "ECDHE-RSA-AES256-GCM-SHA384"}, true}, {"one", []string{"--ciphers", "ECDHE-RSA-AES128-GCM-SHA256"}, false},
		{"none", []string{"--tls-max", "1.2"}, false}, {"none", []string{"--tlsv1.3"}, true},
	} {
		if _, out, ok := visit(t, "127.0.0.1", port, c.host+".example.com", append(c.args, "--cacert", roots)...); ok != c.ok {
			t.Errorf("%s with %v: %v %s", c.host, c.args, ok, out)
		}
	}
	r.denied(t, policy.ReasonHandshake, "")
}
