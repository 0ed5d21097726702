// SPDX-License-Identifier: Apache-2.0

package originate_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/forward/originate"
	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// authority is a CA with its files.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

var serial int64

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func template(name string) *x509.Certificate {
	serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{key: newKey(t), file: filepath.Join(t.TempDir(), name+".crt")}
	tmpl := template(name)
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	write(t, a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

// issue makes a certificate; change may change what it says.
func (a *authority) issue(t *testing.T, name string, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	tmpl, key := template(name), newKey(t)
	tmpl.DNSNames, tmpl.KeyUsage = []string{name}, x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// revokes writes the list of what a has revoked.
func (a *authority) revokes(t *testing.T, next time.Time, list ...*x509.Certificate) string {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: next.Add(-3 * time.Hour), NextUpdate: next}
	for _, c := range list {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Join(t.TempDir(), "crl"), pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// join is a file of several.
func join(t *testing.T, files ...string) string {
	t.Helper()
	var all []byte
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	return write(t, filepath.Join(t.TempDir(), "joined"), all)
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// files writes a certificate and its key.
func files(t *testing.T, dir string, c tls.Certificate) (cert, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert = write(t, filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	return cert, write(t, filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// serve answers each connection with what do makes of it, until the test ends.
func serve(t *testing.T, at string, do func(net.Conn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			do(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

// greet is a server with TLS that says what it saw, one connection after the other.
func greet(conf *tls.Config) func(net.Conn) {
	return func(c net.Conn) {
		s := tls.Server(c, conf)
		if s.Handshake() != nil {
			return
		}
		st := s.ConnectionState()
		said := "sni=" + st.ServerName + " alpn=" + st.NegotiatedProtocol
		if len(st.PeerCertificates) > 0 {
			said += " client=" + st.PeerCertificates[0].Subject.CommonName
		}
		if st.DidResume {
			said += " resumed"
		}
		_, _ = io.WriteString(s, said+"\n")
		_, _ = io.Copy(io.Discard, s)
	}
}

// try originates what a policy says, and returns the server's first line.
func try(t *testing.T, o *originate.Originator, at netip.AddrPort, traffic *policy.TrafficPolicy, change func(*originate.Job)) (string, error) {
	t.Helper()
	nc, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	j := originate.Job{Upstream: &policy.Upstream{Host: "x.example.com", Traffic: traffic}, Name: "x.example.com", Holder: "one"}
	if change != nil {
		change(&j)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := o.Do(ctx, nc, j)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(line), nil
}

var both = []string{"127.0.0.1:0", "[::1]:0"}

// TestVerify: TLS is originated to whom the rule says, and to nobody else.
func TestVerify(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	good := ca.issue(t, "x.example.com", nil)
	uri := ca.issue(t, "y.example.com", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "td", Path: "/ns/a/sa/b"}} })
	simple := func(change func(*policy.ClientTLS)) *policy.TrafficPolicy {
		c := &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file}
		if change != nil {
			change(c)
		}
		return &policy.TrafficPolicy{TLS: c}
	}
	var log bytes.Buffer
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{}), Log: slog.New(slog.NewTextHandler(&log, nil))})
	old := &tls.Config{Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	later := time.Now().Add(time.Hour)
	for _, c := range []struct {
		name    string
		server  tls.Certificate
		traffic *policy.TrafficPolicy
		want    policy.Reason // "": it works
		says    string
	}{
		{"good", good, simple(nil), "", "sni=x.example.com"},
		{"another name", ca.issue(t, "y.example.com", nil), simple(nil), policy.ReasonTLSVerify, "x.example.com"},
		{"another CA", other.issue(t, "x.example.com", nil), simple(nil), policy.ReasonTLSVerify, "unknown authority"},
		{"the system's CAs", good, simple(func(c *policy.ClientTLS) { c.CA = "" }), policy.ReasonTLSVerify, "unknown authority"},
		{"expired", ca.issue(t, "x.example.com", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), simple(nil), policy.ReasonTLSVerify, "expired"},
		{"for clients only", ca.issue(t, "x.example.com", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), simple(nil), policy.ReasonTLSVerify, "usage"},
		{"alternative name", uri, simple(func(c *policy.ClientTLS) { c.SubjectAltNames = []string{"z", "y.example.com"} }), "", "sni=x.example.com"},
		{"URI", uri, simple(func(c *policy.ClientTLS) { c.SubjectAltNames = []string{"spiffe://td/ns/a/sa/b"} }), "", "sni=x.example.com"},
		{"no such alternative", good, simple(func(c *policy.ClientTLS) { c.SubjectAltNames = []string{"y.example.com"} }), policy.ReasonTLSVerify, "y.example.com"},
		{"SNI", uri, simple(func(c *policy.ClientTLS) { c.SNI = "y.example.com" }), "", "sni=y.example.com"},
		{"nothing is verified", other.issue(t, "z", nil), simple(func(c *policy.ClientTLS) { c.CA, c.InsecureSkipVerify = "", true }), "", "sni=x.example.com"},
		{"not revoked", good, simple(func(c *policy.ClientTLS) { c.CRL = ca.revokes(t, later, uri.Leaf) }), "", "sni="},
		{"revoked", good, simple(func(c *policy.ClientTLS) { c.CRL = ca.revokes(t, later, good.Leaf) }), policy.ReasonTLSVerify, "revoked"},
		{"old list", good, simple(func(c *policy.ClientTLS) { c.CRL = ca.revokes(t, time.Now().Add(-time.Hour)) }), policy.ReasonTLSVerify, "before"},
		{"an old list before the new one", good, simple(func(c *policy.ClientTLS) {
			c.CRL = join(t, ca.revokes(t, later.Add(-time.Minute)), ca.revokes(t, later, good.Leaf))
		}), policy.ReasonTLSVerify, "revoked"},
		{"an old list behind the new one", good, simple(func(c *policy.ClientTLS) {
			c.CRL = join(t, ca.revokes(t, later, uri.Leaf), ca.revokes(t, time.Now().Add(-time.Hour), good.Leaf))
		}), "", "sni="},
		{"another's list", good, simple(func(c *policy.ClientTLS) { c.CRL = other.revokes(t, later) }), policy.ReasonTLSVerify, "no list"},
		{"no CA file", good, simple(func(c *policy.ClientTLS) { c.CA = "/nonexistent/ca" }), policy.ReasonTLSCredential, "/nonexistent/ca"},
		{"no Secret", good, simple(func(c *policy.ClientTLS) { c.Secret = "ns/none" }), policy.ReasonTLSCredential, "Secret ns/none"},
	} {
		for _, at := range both {
			got, err := try(t, o, serve(t, at, greet(&tls.Config{Certificates: []tls.Certificate{c.server}})), c.traffic, nil)
			if r := originate.ReasonOf(err); (err == nil) != (c.want == "") || r != c.want {
				t.Errorf("%s: %q, %v", c.name, r, err)
			} else if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, c.says) {
				t.Errorf("%s: %q does not have %q", c.name, got, c.says)
			}
		}
	}
	if _, err := try(t, o, serve(t, both[0], greet(old)), simple(nil), nil); err == nil || originate.ReasonOf(err) == "" {
		t.Errorf("TLS 1.1: %v", err)
	}
	if _, err := try(t, o, serve(t, both[0], func(c net.Conn) { _, _ = io.WriteString(c, "220 ready\r\n") }), simple(nil), nil); originate.ReasonOf(err) != policy.ReasonTLSHandshake {
		t.Errorf("no TLS: %v", err)
	}
	if n := strings.Count(log.String(), "insecureSkipVerify"); n != 1 {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}

// TestClientCertificate: MUTUAL shows the certificate of files or of a Secret, which
// are read again; a server that misses one says so, also after the handshake.
func TestClientCertificate(t *testing.T) {
	ca, dir := newAuthority(t, "ca"), t.TempDir()
	server := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "x.example.com", nil)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool()}
	server.ClientCAs.AddCert(ca.cert)
	older := server.Clone()
	older.MaxVersion = tls.VersionTLS12
	stock := certs.NewStock(certs.Options{})
	o := originate.New(originate.Options{Stock: stock, Directories: []string{dir}})
	mutual := &policy.ClientTLS{Mode: policy.TLSMutual, CA: ca.file}
	mutual.Certificate, mutual.PrivateKey = files(t, dir, ca.issue(t, "app", nil))
	at := serve(t, both[0], greet(server))
	for _, want := range []string{"app", "app2"} {
		if got, err := try(t, o, at, &policy.TrafficPolicy{TLS: mutual}, nil); err != nil || !strings.Contains(got, "client="+want+" ") && !strings.HasSuffix(got, "client="+want) {
			t.Errorf("%s: %q, %v", want, got, err)
		}
		files(t, dir, ca.issue(t, "app2", nil))
		stock.Refresh()
	}
	for name, conf := range map[string]*tls.Config{"1.3": server, "1.2": older} {
		_, err := try(t, o, serve(t, both[1], greet(conf)), &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file}}, nil)
		if originate.ReasonOf(err) != policy.ReasonTLSRejected {
			t.Errorf("TLS %s without a certificate: %v", name, err)
		}
	}
	cert, _ := os.ReadFile(mutual.Certificate)
	key, _ := os.ReadFile(mutual.PrivateKey)
	caPEM, _ := os.ReadFile(ca.file)
	secret := &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSMutual, Secret: "ns/app"}}
	stock.SetSecrets(map[string]certs.Secret{"ns/app": {"tls.crt": cert, "tls.key": key, "ca.crt": caPEM}})
	if got, err := try(t, o, at, secret, nil); err != nil || !strings.Contains(got, "client=app2") {
		t.Errorf("Secret: %q, %v", got, err)
	}
	stock.SetSecrets(map[string]certs.Secret{"ns/app": {"ca.crt": caPEM}})
	if _, err := try(t, o, at, secret, nil); originate.ReasonOf(err) != policy.ReasonTLSCredential {
		t.Errorf("a Secret without a pair: %v", err)
	}
	for name, change := range map[string]func(*policy.ClientTLS){
		"of a cluster":     func(c *policy.ClientTLS) { c.FromCluster = true },
		"elsewhere":        func(c *policy.ClientTLS) { c.PrivateKey = "/etc/ssl/private/other.key" },
		"out of the place": func(c *policy.ClientTLS) { c.PrivateKey = dir + "/../x/tls.key" },
		"beside it":        func(c *policy.ClientTLS) { c.PrivateKey = dir + "2/tls.key" },
		"a CA of the node's": func(c *policy.ClientTLS) {
			*c = policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file, FromCluster: true}
		},
	} {
		own := *mutual
		change(&own)
		if _, err := try(t, o, at, &policy.TrafficPolicy{TLS: &own}, nil); originate.ReasonOf(err) != policy.ReasonTLSCredential {
			t.Errorf("a file %s: %v", name, err)
		}
	}
}

// TestSessions: a session is resumed by the same workload with the same settings, and
// by no other.
func TestSessions(t *testing.T) {
	ca := newAuthority(t, "ca")
	at := serve(t, both[0], greet(&tls.Config{Certificates: []tls.Certificate{ca.issue(t, "x.example.com", nil)}}))
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{})})
	traffic := &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file}}
	sans := &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file, SubjectAltNames: []string{"x.example.com"}}}
	for i, c := range []struct {
		traffic *policy.TrafficPolicy
		holder  string
		resumed bool
	}{{traffic, "one", false}, {traffic, "one", true}, {traffic, "two", false}, {sans, "one", false}, {sans, "one", true}} {
		got, err := try(t, o, at, c.traffic, func(j *originate.Job) { j.Holder = c.holder })
		if err != nil || strings.Contains(got, "resumed") != c.resumed {
			t.Errorf("%d: %q, %v", i, got, err)
		}
	}
}

// TestALPN: what is to be spoken is offered.
func TestALPN(t *testing.T) {
	ca := newAuthority(t, "ca")
	conf := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "x.example.com", nil)}, NextProtos: []string{"http/1.1", "h2"}}
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{})})
	traffic := &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file}}
	for _, p := range []string{"h2", "http/1.1", ""} {
		if got, err := try(t, o, serve(t, both[0], greet(conf)), traffic, func(j *originate.Job) { j.Protocol = p }); err != nil || !strings.HasSuffix(got, "alpn="+p) {
			t.Errorf("%q: %q, %v", p, got, err)
		}
	}
	only := conf.Clone()
	only.NextProtos = []string{"http/1.1"}
	if _, err := try(t, o, serve(t, both[0], greet(only)), traffic, func(j *originate.Job) { j.Protocol = "h2" }); originate.ReasonOf(err) != policy.ReasonTLSRejected {
		t.Errorf("no common protocol: %v", err)
	}
}

// TestTunnel: a proxy is asked for a tunnel, with TLS to it if there is to be any, and
// what it says instead is the reason.
func TestTunnel(t *testing.T) {
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{})})
	traffic := &policy.TrafficPolicy{Tunnel: &policy.Tunnel{Protocol: "CONNECT", TargetHost: "2001:db8::1", TargetPort: 443}}
	for _, c := range []struct{ answer, want string }{
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nhello\n", "hello"},
		{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 204 No\r\n\r\nhello\n", "hello"},
		{"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "status 407"},
		{"HTTP/1.1 101 Switching Protocols\r\n\r\n", "status 101"},
		{"SSH-2.0-x\r\n\r\n", "not HTTP/1"},
		{"HTTP/1.1 200 OK\r\n", "EOF"},
		{"HTTP/1.1 200 OK\r\n" + strings.Repeat("a: b\r\n", 4000), "too long"},
	} {
		for _, at := range both {
			asked := make(chan string, 1)
			got, err := try(t, o, serve(t, at, func(nc net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(nc))
				if err == nil {
					asked <- r.Method + " " + r.RequestURI + " " + r.Host
				}
				_, _ = io.WriteString(nc, c.answer)
			}), traffic, nil)
			if err != nil {
				got = err.Error()
				if originate.ReasonOf(err) != policy.ReasonTunnel {
					t.Errorf("%q: %v", c.answer, originate.ReasonOf(err))
				}
			}
			if line := <-asked; line != "CONNECT [2001:db8::1]:443 [2001:db8::1]:443" || !strings.Contains(got, c.want) {
				t.Errorf("%.30q: %q, asked %q", c.answer, got, line)
			}
		}
	}
}

// TestProxyProtocol: the header says who connects to what.
func TestProxyProtocol(t *testing.T) {
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{})})
	ap := netip.MustParseAddrPort
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	for _, c := range []struct {
		version  int
		src, dst string
		want     string
	}{
		{1, "192.0.2.1:1234", "198.51.100.1:443", "PROXY TCP4 192.0.2.1 198.51.100.1 1234 443\r\n"},
		{1, "[2001:db8::1]:1234", "[2001:db8::2]:443", "PROXY TCP6 2001:db8::1 2001:db8::2 1234 443\r\n"},
		{1, "127.0.0.1:1234", "198.51.100.1:443", "PROXY TCP4 127.0.0.1 198.51.100.1 1234 443\r\n"}, // the connection's own
		{2, "192.0.2.1:258", "198.51.100.1:443", v2 + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x01\x01\x02\x01\xbb"},
		{2, "[2001:db8::1]:258", "[2001:db8::2]:443", v2 + "\x21\x21\x00\x24" + string(netip.MustParseAddr("2001:db8::1").AsSlice()) + string(netip.MustParseAddr("2001:db8::2").AsSlice()) + "\x01\x02\x01\xbb"},
	} {
		got := make(chan string, 1)
		at := serve(t, both[0], func(nc net.Conn) {
			b := make([]byte, len(c.want))
			_, _ = io.ReadFull(nc, b)
			got <- string(b)
			_, _ = io.WriteString(nc, "hello\n")
		})
		line, err := try(t, o, at, &policy.TrafficPolicy{ProxyProtocol: c.version}, func(j *originate.Job) { j.Src, j.Dst = ap(c.src), ap(c.dst) })
		if err != nil || line != "hello" {
			t.Errorf("%+v: %q, %v", c, line, err)
		} else if b := <-got; b != c.want {
			t.Errorf("%q, want %q", b, c.want)
		}
	}
}

// TestQuiet: tickets that come at any time are not bytes for the application; the end
// and bytes are.
func TestQuiet(t *testing.T) {
	ca := newAuthority(t, "ca")
	next := make(chan string)
	at := serve(t, both[0], func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "x.example.com", nil)}})
		if s.Handshake() != nil {
			return
		}
		for text := range next {
			if text == "" {
				return
			}
			_, _ = io.WriteString(s, text)
		}
	})
	defer close(next)
	o := originate.New(originate.Options{Stock: certs.NewStock(certs.Options{})})
	for _, text := range []string{"", "x"} {
		nc, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := o.Do(t.Context(), nc, originate.Job{Upstream: &policy.Upstream{Traffic: &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, CA: ca.file}}}, Name: "x.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		quiet := c.(*originate.Secured).Quiet
		if !quiet() {
			t.Error("after the handshake it is not quiet")
		}
		next <- text
		for end := time.Now().Add(10 * time.Second); quiet(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%q is not seen", text)
			}
		}
		c.Close()
		if text != "" {
			next <- ""
		}
	}
}

// TestCredential: a value is there only for a connection that is verified, from where
// the policy may take it, and is in no error.
func TestCredential(t *testing.T) {
	dir := t.TempDir()
	stock := certs.NewStock(certs.Options{})
	stock.SetSecrets(map[string]certs.Secret{"ns/a": {"token": []byte("Bearer hush\n")}})
	o := originate.New(originate.Options{Stock: stock, Directories: []string{dir}})
	file := write(t, filepath.Join(dir, "token"), []byte("hush2"))
	outside := write(t, filepath.Join(t.TempDir(), "token"), []byte("hush3"))
	simple := &policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple}}
	for _, c := range []struct {
		traffic *policy.TrafficPolicy
		from    policy.HeaderCredential
		want    string
	}{
		{simple, policy.HeaderCredential{Secret: "ns/a", Key: "token"}, "Bearer hush"},
		{simple, policy.HeaderCredential{File: file}, "hush2"},
		{simple, policy.HeaderCredential{File: file, FromCluster: true}, ""},
		{simple, policy.HeaderCredential{File: outside}, ""},
		{simple, policy.HeaderCredential{Secret: "ns/a", Key: "none"}, ""},
		{simple, policy.HeaderCredential{Secret: "other/a", Key: "token"}, ""},
		{nil, policy.HeaderCredential{Secret: "ns/a", Key: "token"}, ""},
		{&policy.TrafficPolicy{TLS: &policy.ClientTLS{Mode: policy.TLSSimple, InsecureSkipVerify: true}}, policy.HeaderCredential{Secret: "ns/a", Key: "token"}, ""},
	} {
		got, err := o.Credential(&policy.Upstream{Host: "x", Traffic: c.traffic}, &c.from)
		if got != c.want || (c.want == "") != (originate.ReasonOf(err) == policy.ReasonCredential) || err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%+v: %q, %v", c.from, got, err)
		}
	}
}
