// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// issuer makes certificates with openssl, in files of a directory.
type issuer struct {
	*node
	dir string
}

// newIssuer has an authority, ca.crt.
func (n *node) newIssuer(t *testing.T, dir string) issuer {
	t.Helper()
	testenv.RequireTool(t, "openssl")
	i := issuer{n, dir}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	i.openssl(t, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ca", "-keyout", i.file("ca.key"), "-out", i.file("ca.crt"), "-days", "2")
	return i
}

func (i issuer) file(name string) string { return filepath.Join(i.dir, name) }

func (i issuer) openssl(t *testing.T, args ...string) {
	t.Helper()
	if e := i.run(t, nil, "openssl", args...); e.code != 0 {
		t.Fatalf("openssl %v: %s", args, e.stderr)
	}
}

// expired makes NAME.crt and NAME.key of a certificate that expired an hour ago, which
// openssl does not make.
func (i issuer) expired(t *testing.T, name, host string) {
	t.Helper()
	ca, err := tls.LoadX509KeyPair(i.file("ca.crt"), i.file("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(4711), DNSNames: []string{host}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".crt": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(i.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// issue makes NAME.crt and NAME.key for a host.
func (i issuer) issue(t *testing.T, name, host, days string) {
	t.Helper()
	i.openssl(t, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN="+host, "-addext", "subjectAltName=DNS:"+host,
		"-addext", "basicConstraints=critical,CA:FALSE", "-CA", i.file("ca.crt"), "-CAkey", i.file("ca.key"), "-keyout", i.file(name+".key"), "-out", i.file(name+".crt"), "-days", days)
}

// serveOutside is serveIn for the network of the outside.
func (n *node) serveOutside(t *testing.T, at netip.AddrPort, name string, args ...string) {
	t.Helper()
	n.serveIn(t, n.Net, at, name, args...)
}

// serveIn runs a server that is not captured until the test ends, and waits until it
// listens.
func (n *node) serveIn(t *testing.T, in *world.Netns, at netip.AddrPort, name string, args ...string) {
	t.Helper()
	testenv.RequireTool(t, name)
	c := in.Command(t.Context(), nil, name, args...)
	// A file: a pipe would be waited for as long as a child of the server has it.
	log, err := os.CreateTemp(n.Dir(), filepath.Base(name)+"*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the process has its own descriptor
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
		if said, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s said:\n%s", name, said)
		}
	})
	eventually(t, soon, name+" listens", func() bool {
		nc, err := in.Dial(t.Context(), "tcp", at)
		if err != nil {
			return false
		}
		_ = nc.Close()
		return true
	})
}

func (n *node) config(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(n.Dir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOriginateParts: to nginx by HTTP/2, which ALPN agrees on, to servers with
// certificates that have expired, are for another name, or speak no TLS at all, with a
// PROXY header to nginx and to HAProxy, and through a proxy by CONNECT.
func TestOriginateParts(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{}, nil)
	certs := n.newIssuer(t, filepath.Join(n.Dir(), "certs"))
	certs.issue(t, "good", "good.internal", "2")
	certs.expired(t, "old", "old.internal")
	four, six := n.Echo.Addr.Addr(), n.Echo6.Addr.Addr()
	n.serveOutside(t, netip.AddrPortFrom(six, 4433), "nginx", "-e", "stderr", "-c", n.config(t, "nginx.conf", fmt.Sprintf(`daemon off; master_process off; pid %[1]s/nginx.pid; error_log stderr warn;
events {}
http {
  access_log off; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server {
    listen %[2]s:4432 ssl http2; listen [%[3]s]:4432 ssl http2;
    ssl_certificate %[4]s; ssl_certificate_key %[5]s; ssl_protocols TLSv1.2 TLSv1.3;
    location / { return 200 "$server_protocol $ssl_server_name $ssl_protocol\n"; }
  }
  server {
    listen %[2]s:4434 ssl; ssl_certificate %[6]s; ssl_certificate_key %[7]s;
    location / { return 200 "expired\n"; }
  }
  server {
    listen %[2]s:4433 proxy_protocol; listen [%[3]s]:4433 proxy_protocol;
    location / { return 200 "$proxy_protocol_addr $proxy_protocol_server_port\n"; }
  }
  server {
    listen %[2]s:4438;
    location / { return 200 "plain text to port 4438\n"; }
  }
}
`, n.Dir(), four, six, certs.file("good.crt"), certs.file("good.key"), certs.file("old.crt"), certs.file("old.key"))))
	n.serveOutside(t, netip.AddrPortFrom(four, 4435), "haproxy", "-db", "-f", n.config(t, "haproxy.cfg", fmt.Sprintf(`global
  maxconn 64
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend proxied
  bind %s:4435 accept-proxy
  bind [%s]:4435 accept-proxy
  http-request return status 200 content-type text/plain lf-string "%%[src] %%[dst_port]"
`, four, six)))
	n.serveOutside(t, netip.AddrPortFrom(four, 4436), "tinyproxy", "-d", "-c", n.config(t, "tinyproxy.conf", fmt.Sprintf("Port 4436\nListen %s\nTimeout 10\nConnectPort 443\nLogLevel Warning\n", four)))

	simple := func(more string) string {
		return "tls: {caCertificates: " + certs.file("ca.crt") + ", mode: SIMPLE" + more + "}"
	}
	web := func(name, vip, protocol, target, traffic string, at ...netip.Addr) string {
		var list []string
		for _, a := range at {
			list = append(list, `{address: "`+a.String()+`"}`)
		}
		return service(name, name+".internal", "{number: 80, name: web, protocol: "+protocol+", targetPort: "+target+"}", vip, strings.Join(list, ", ")) +
			destinationRule(name, name+".internal", "{"+traffic+"}")
	}
	n.write(t, "parts.yaml", web("h2", "240.0.9.2", "HTTP2", "4432", simple(", subjectAltNames: [good.internal], sni: good.internal"), four)+
		web("h2six", "240.0.9.3", "HTTP2", "4432", simple(", subjectAltNames: [good.internal], sni: good.internal"), six)+
		web("old", "240.0.9.4", "HTTP", "4434", simple(""), four)+
		web("wrong", "240.0.9.5", "HTTP", "4432", simple(", subjectAltNames: [another.internal]"), four)+
		web("downgraded", "240.0.9.6", "HTTP", "4438", simple(", subjectAltNames: [good.internal]"), four)+
		web("v1", "240.0.9.7", "HTTP", "4433", "proxyProtocol: {version: V1}", four)+
		web("v2", "240.0.9.8", "HTTP", "4435", "proxyProtocol: {version: V2}", four)+
		web("v1six", "240.0.9.9", "HTTP", "4433", "proxyProtocol: {version: V1}", six)+
		web("v2six", "240.0.9.10", "HTTP", "4435", "proxyProtocol: {version: V2}", six)+
		service("tunnelled", "tunnelled.internal", "{number: 8443, name: tcp, protocol: TCP, targetPort: 4436}", "240.0.9.11", `{address: "`+four.String()+`"}`)+
		destinationRule("tunnelled", "tunnelled.internal", "{tunnel: {protocol: CONNECT, targetHost: "+n.API.V4.String()+", targetPort: 443}}")+
		service("refused", "refused.internal", "{number: 8443, name: tcp, protocol: TCP, targetPort: 4436}", "240.0.9.12", `{address: "`+four.String()+`"}`)+
		destinationRule("refused", "refused.internal", "{tunnel: {protocol: CONNECT, targetHost: "+n.API.V4.String()+", targetPort: 80}}"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"h2", "h2six"} {
		if a := n.curl(t, n.in, "http://"+host+".internal/"); a.status != 200 || strings.TrimSpace(a.body) != "HTTP/2.0 good.internal TLSv1.3" {
			t.Errorf("%s: %+v", host, a)
		}
	}
	for host, want := range map[string]string{"v1": world.NodeV4 + " 80", "v2": world.NodeV4 + " 80", "v1six": world.NodeV6, "v2six": world.NodeV6} {
		if a := n.curl(t, n.in, "http://"+host+".internal/"); a.status != 200 || !strings.HasPrefix(a.body, want) {
			t.Errorf("%s: %+v, want %s", host, a, want)
		}
	}
	for host, want := range map[string]policy.Reason{"old": policy.ReasonTLSVerify, "wrong": policy.ReasonTLSVerify, "downgraded": policy.ReasonTLSHandshake} {
		a := n.curl(t, n.in, "http://"+host+".internal/")
		if a.status != 503 || strings.Contains(a.body, "expired\n") || strings.Contains(a.body, "plain text to") {
			t.Errorf("%s: %+v", host, a)
		}
		if e := n.event(t, "a request to "+host, func(e flow.Event) bool { return e.Kind == flow.Request && e.Name == host+".internal" }); e.Reason != want {
			t.Errorf("%s: %+v, want %s", host, e, want)
		}
	}
	over := func(vip string) answer {
		return n.curl(t, n.in, "--resolve", n.API.Name+":8443:"+vip, "https://"+n.API.Name+":8443/x")
	}
	if e := asked(t, over("240.0.9.11")); e.SNI != n.API.Name || e.Path != "/x" {
		t.Errorf("through the proxy: %+v", e)
	}
	if a := over("240.0.9.12"); a.exit == 0 {
		t.Errorf("a tunnel that the proxy refuses: %+v", a)
	}
	n.event(t, "a tunnel that is refused", func(e flow.Event) bool {
		return e.Reason == policy.ReasonTunnel && strings.Contains(e.Detail, "403")
	})
}

// TestGatewayBehindHAProxy: a balancer in front of the Gateway says by the PROXY
// protocol whose a connection is, and the origin hears it; a visitor that comes without
// the header gets nothing, and what one writes into X-Forwarded-For does not make it
// somebody else.
func TestGatewayBehindHAProxy(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{}, nil, "--gateway-selector", "istio=ingressgateway")
	four := n.Echo.Addr.Addr()
	n.serveOutside(t, netip.AddrPortFrom(four, 4437), "haproxy", "-db", "-f", n.config(t, "haproxy.cfg", fmt.Sprintf(`defaults
  mode tcp
  timeout connect 5s
  timeout client 5s
  timeout server 5s
listen one
  bind %[1]s:4437
  server gateway %[2]s:8080 send-proxy
listen two
  bind %[1]s:4438
  server gateway [%[3]s]:8080 send-proxy-v2
`, four, world.NodeV4, world.NodeV6)))
	n.write(t, "gateway.yaml", nameEntry("api", n.API.Name, "{number: 80, name: http, protocol: HTTP}")+`---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: gw
  annotations: {proxy.istio.io/config: '{"gatewayTopology": {"proxyProtocol": {}}}'}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gw}
spec:
  hosts: ["*"]
  gateways: [gw]
  http: [{route: [{destination: {host: `+n.API.Name+`, port: {number: 80}}}]}]
`)
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"4437", "4438"} {
		a := n.visit(t, "--interface", world.StrangerV4, "-H", "X-Forwarded-For: 192.0.2.77", "http://"+four.String()+":"+port+"/x")
		if a.status != 200 {
			t.Errorf("through %s: %+v", port, a)
			continue
		}
		e := asked(t, a)
		if by := strings.Join(e.Header["X-Forwarded-For"], "|"); by != "192.0.2.77,"+world.StrangerV4 {
			t.Errorf("through %s: X-Forwarded-For %q, want the visitor behind what it says", port, by)
		}
		if who := strings.Join(e.Header["X-Envoy-External-Address"], "|"); who != world.StrangerV4 {
			t.Errorf("through %s: X-Envoy-External-Address %q", port, who)
		}
	}
	for _, at := range []string{world.NodeV4, "[" + world.NodeV6 + "]"} {
		if a := n.visit(t, "http://"+at+":8080/x"); a.status != 0 {
			t.Errorf("without the header, at %s: %+v", at, a)
		}
	}
	n.event(t, "a connection without the header", func(e flow.Event) bool { return e.Layer == flow.Ingress && e.Reason == policy.ReasonProxyProtocol })
}
