// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
)

// plain is a server for HTTP on a port.
func plain(port uint16) string {
	return fmt.Sprintf("  - {port: {number: %d, name: http, protocol: HTTP}, hosts: [\"*\"]}\n", port)
}

// topology is the annotation with a gatewayTopology.
func topology(t string) string { return "proxy.istio.io/config: '{gatewayTopology: {" + t + "}}'" }

// TestVisitor: the origin is told who the visitor is, by as many proxies as are
// trusted and by no other.
func TestVisitor(t *testing.T) {
	backend, port := origin(t), freePort(t)
	r := newGateway(t, yaml(backend, "", plain(port)))
	sent := []string{"-H", "X-Forwarded-For: 198.51.100.1, 198.51.100.2", "-H", "X-Forwarded-For: 198.51.100.3", "-H", "X-Forwarded-Proto: https", "-H", "X-Envoy-External-Address: 6.6.6.6", "-H", "X-Envoy-Max-Retries: 9"}
	for _, c := range []struct {
		annotation          string
		args                []string
		forwardedFor, proto string
		external, internal  string
	}{
		{"", nil, "SRC", "http", "", "true"},
		{"", sent, "198.51.100.1, 198.51.100.2,198.51.100.3,SRC", "http", "SRC", ""},
		{topology("numTrustedProxies: 1"), sent, "198.51.100.1, 198.51.100.2,198.51.100.3,SRC", "https", "198.51.100.3", ""},
		{topology("numTrustedProxies: 3"), sent, "198.51.100.1, 198.51.100.2,198.51.100.3,SRC", "https", "198.51.100.1", ""},
		{topology("numTrustedProxies: 4"), sent, "198.51.100.1, 198.51.100.2,198.51.100.3,SRC", "https", "SRC", ""},
		{topology("numTrustedProxies: 1"), []string{"-H", "X-Forwarded-For: nobody"}, "nobody,SRC", "http", "SRC", ""},
	} {
		r.apply(t, yaml(backend, c.annotation, plain(port)))
		for _, at := range loopbacks {
			out, ok := curl(t, append(c.args, "http://"+net.JoinHostPort(at, fmt.Sprint(port))+"/")...)
			var got seen
			if err := json.Unmarshal([]byte(out), &got); !ok || err != nil {
				t.Fatalf("%s: %s", at, out)
			}
			h := got.Header
			src := func(s string) string { return strings.ReplaceAll(s, "SRC", at) }
			if h.Get("X-Forwarded-For") != src(c.forwardedFor) || h.Get("X-Forwarded-Proto") != c.proto ||
				h.Get("X-Envoy-External-Address") != src(c.external) || h.Get("X-Envoy-Internal") != c.internal || h.Get("X-Envoy-Max-Retries") != "" {
				t.Errorf("%q %v at %s: the origin was told %v", c.annotation, c.args, at, h)
			}
		}
	}
}

// TestProxyProtocol: with it each connection says where it is from, before anything
// else and within its bounds, and none without it is served.
func TestProxyProtocol(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	s := ca.issue(t, dir, "s.example.com", nil, false)
	backend, port, over := origin(t), freePort(t), freePort(t)
	r := newGateway(t, yaml(backend, topology("proxyProtocol: {}"), plain(port)+
		fmt.Sprintf("  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: [s.example.com], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}}\n", over, s.certAt, s.keyAt)))
	for _, at := range loopbacks {
		url := "http://" + net.JoinHostPort(at, fmt.Sprint(port)) + "/"
		for header, from := range map[string]string{
			"PROXY TCP4 192.0.2.7 127.0.0.1 4000 80\r\n": "192.0.2.7",
			"PROXY TCP6 2001:db8::7 ::1 4000 80\r\n":     "2001:db8::7",
			"PROXY UNKNOWN\r\n":                          at,
			"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00":     at, // a health check of the proxy's own
			"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x09\x7f\x00\x00\x01\x0f\xa0\x00\x50": "192.0.2.9",
		} {
			if out := send(t, at, port, header+"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.Contains(out, `"X-Forwarded-For":["`+from+`"]`) {
				t.Errorf("%q at %s: %s, want %s", header, at, out, from)
			}
		}
		if got, out, ok := visit(t, at, over, "s.example.com", "--cacert", roots, "--haproxy-protocol"); !ok || got.Header.Get("X-Forwarded-For") != at {
			t.Errorf("over TLS at %s: %s", at, out)
		}
		if out, ok := curl(t, url); ok {
			t.Errorf("%s without a header: %s", at, out)
		}
		if out := send(t, at, port, "PROXY TCP4 nobody 127.0.0.1 4000 80\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"); out != "" {
			t.Errorf("an address that is none at %s: %s", at, out)
		}
	}
	r.denied(t, policy.ReasonProxyProtocol, "no PROXY protocol header")
}

// send writes to a port, and reads all that comes.
func send(t testing.TB, at string, port uint16, text string) string {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(at, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.WriteString(c, text)
	out, _ := io.ReadAll(c) // a reset is no answer
	return string(out)
}

// TestVisitorsAuthorization: AuthorizationPolicies for the gateway judge visitors by
// the address that a trusted proxy gives them and by their certificate; who is denied
// reads 403, and no rule.
func TestVisitorsAuthorization(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	s := ca.issue(t, dir, "s.example.com", nil, false)
	web := ca.issue(t, dir, "web", spiffe("spiffe://cluster.local/ns/shop/sa/web"), false)
	job := ca.issue(t, dir, "job", spiffe("spiffe://cluster.local/ns/shop/sa/job"), false)
	backend, port, over := origin(t), freePort(t), freePort(t)
	base := yaml(backend, topology("numTrustedProxies: 1"), plain(port)+
		fmt.Sprintf("  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: [s.example.com], tls: {mode: OPTIONAL_MUTUAL, serverCertificate: %q, privateKey: %q, caCertificates: %q}}\n", over, s.certAt, s.keyAt, roots))
	r := newGateway(t, base)
	ask := func(at string, port uint16, scheme string, args ...string) string {
		t.Helper()
		address := at
		if strings.Contains(at, ":") {
			address = "[" + at + "]"
		}
		out, _ := curl(t, append(args, "--cacert", roots, "-o", "/dev/null", "-w", "%{http_code}", "--resolve", fmt.Sprintf("s.example.com:%d:%s", port, address), fmt.Sprintf("%s://s.example.com:%d/x", scheme, port))...)
		return out
	}
	client := func(c *issued) []string { return []string{"--cert", c.certAt, "--key", c.keyAt} }
	from := func(a string) []string { return []string{"-H", "X-Forwarded-For: 203.0.113.1, " + a} }
	for _, c := range []struct{ rule, yes, no string }{
		{"{action: ALLOW, rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]}", "203.0.113.7", "198.51.100.7"},
		{"{action: DENY, rules: [{from: [{source: {remoteIpBlocks: [203.0.113.0/24]}}]}]}", "198.51.100.7", "203.0.113.7"},
		{"{action: ALLOW, rules: [{when: [{key: remote.ip, values: [203.0.113.7]}]}]}", "203.0.113.7", "203.0.113.1"},
	} {
		r.apply(t, base+"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: istio-system}\nspec: "+
			strings.Replace(c.rule, "{action", "{selector: {matchLabels: {istio: ingressgateway}}, action", 1))
		for _, at := range loopbacks {
			if yes, no := ask(at, port, "http", from(c.yes)...), ask(at, port, "http", from(c.no)...); yes != "200" || no != "403" {
				t.Errorf("%s at %s: %s is answered %s, %s %s", c.rule, at, c.yes, yes, c.no, no)
			}
		}
	}
	for _, c := range []struct{ rule, web, job, none string }{
		{"{action: ALLOW, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}", "200", "403", "403"},
		{"{action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]}]}", "403", "200", "200"},
		{"{action: ALLOW, rules: [{from: [{source: {principals: [\"*\"]}}]}]}", "200", "200", "403"},
		{"{action: ALLOW, rules: [{from: [{source: {namespaces: [shop]}}]}]}", "200", "200", "403"},
		{"{action: DENY, rules: [{when: [{key: source.principal, notValues: [\"*/sa/web\"]}]}]}", "200", "403", "403"},
		{"{action: ALLOW, rules: [{when: [{key: connection.sni, values: [s.example.com]}]}]}", "200", "200", "200"},
		{"{action: ALLOW, rules: [{from: [{source: {ipBlocks: [127.0.0.1, \"::1\"]}}]}]}", "200", "200", "200"},
	} {
		r.apply(t, base+"---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: "+c.rule)
		for _, at := range loopbacks {
			got := [...]string{ask(at, over, "https", client(web)...), ask(at, over, "https", client(job)...), ask(at, over, "https")}
			if got != [...]string{c.web, c.job, c.none} {
				t.Errorf("%s at %s: %v, want %s %s %s", c.rule, at, got, c.web, c.job, c.none)
			}
		}
	}
	r.denied(t, policy.ReasonAuthorization, "")
	r.denied(t, policy.ReasonNoAllow, "")
}

// TestRedirectBeside: a server of plain text sends its visitors to the one over TLS.
func TestRedirectBeside(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca", nil)
	roots := put(t, dir, "ca.pem", ca.pem)
	s := ca.issue(t, dir, "s.example.com", func(c *x509.Certificate) { c.DNSNames = []string{"s.example.com"} }, false)
	port, over := freePort(t), freePort(t)
	newGateway(t, yaml(origin(t), "", fmt.Sprintf(`  - {port: {number: %d, name: http, protocol: HTTP}, hosts: [s.example.com], tls: {httpsRedirect: true}}
  - {port: {number: %d, name: https, protocol: HTTPS}, hosts: [s.example.com], tls: {mode: SIMPLE, serverCertificate: %q, privateKey: %q}}
`, port, over, s.certAt, s.keyAt)))
	for _, at := range loopbacks {
		for _, c := range []struct {
			host, want string
			args       []string
		}{
			{"s.example.com", "301 https://s.example.com/x/%2F?a=b&c", nil},
			{"s.example.com:8080", "301 https://s.example.com:8080/x/%2F?a=b&c", nil}, // as Envoy: the port is the client's
			{"s.example.com", "301 https://s.example.com/x/%2F?a=b&c", []string{"--http2-prior-knowledge"}},
			{"s.example.com", "301 https://s.example.com/x/%2F?a=b&c", []string{"-d", "body"}},
			{"other.example.com", "404 ", nil},
		} {
			out, ok := curl(t, append(c.args, "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "-H", "Host: "+c.host, "http://"+net.JoinHostPort(at, fmt.Sprint(port))+"/x/%2F?a=b&c")...)
			if !ok || out != c.want {
				t.Errorf("%s of %s %v: %s", at, c.host, c.args, out)
			}
		}
		if _, out, ok := visit(t, at, over, "s.example.com", "--cacert", roots); !ok {
			t.Errorf("%s over TLS: %s", at, out)
		}
	}
}

// TestNothingInternalIsTold: what a visitor is answered when a route leads nowhere names
// the host that it asked for, and neither a name, an address nor a file behind the gateway.
func TestNothingInternalIsTold(t *testing.T) {
	port := freePort(t)
	entry := func(name, endpoint, more string) string {
		return fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: %[1]s}
spec:
  hosts: [%[1]s.hush.internal]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: "%[2]s", ports: {http: %[3]d}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: %[1]s}
spec: {host: %[1]s.hush.internal, trafficPolicy: {%[4]s}}
---
`, name, endpoint, freePort(t), more)
	}
	const patient = "connectionPool: {tcp: {connectTimeout: 5s}}"
	text := entry("dead", "127.0.0.1", patient) + entry("local", "127.0.0.2", patient) + entry("metadata", "169.254.169.254", patient) + entry("mesh", "127.0.0.1", "tls: {mode: ISTIO_MUTUAL}")
	text += "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: app, namespace: default}\nspec:\n  hosts: [\"*\"]\n  gateways: [gw]\n  http:\n"
	paths := map[string]string{"dead": "503", "local": "502", "metadata": "502", "mesh": "502", "unknown": "503"}
	for name := range paths {
		text += fmt.Sprintf("  - {match: [{uri: {exact: /%[1]s}}], route: [{destination: {host: %[1]s.hush.internal, port: {number: 80}}}]}\n", name)
	}
	newGateway(t, text+"---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: gw, namespace: default}\nspec:\n  selector: {istio: ingressgateway}\n  servers:\n"+plain(port))
	for _, at := range loopbacks {
		for name, want := range paths {
			for _, more := range [][]string{nil, {"--http2-prior-knowledge"}, {"-H", "Content-Type: application/grpc"}} {
				out, ok := curl(t, append(more, "-i", "-H", "Host: shop.example.com", "http://"+net.JoinHostPort(at, fmt.Sprint(port))+"/"+name)...)
				status, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(out, "HTTP/1.1 "), "HTTP/2 "), " ")
				if !ok || status != want && len(more) < 2 || !strings.Contains(out, "shop.example.com") {
					t.Errorf("%s at %s %v: %s", name, at, more, out)
				}
				for _, inner := range []string{"hush", "127.0.0.1", "127.0.0.2", "169.254"} {
					if strings.Contains(out, inner) {
						t.Errorf("%s at %s %v tells of %s: %s", name, at, more, inner, out)
					}
				}
			}
		}
	}
}
