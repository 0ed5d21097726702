// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/agent"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// nameEntry is a ServiceEntry for a name that is resolved.
func nameEntry(name, host, ports string) string {
	return `---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: ` + name + `}
spec:
  hosts: [` + host + `]
  ports: [` + ports + `]
  resolution: DNS
`
}

// asked is what an origin saw.
func asked(t *testing.T, a answer) (e world.Echo) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Errorf("%+v: %v", a, err)
	}
	return e
}

// TestOriginate: what an application says in plain text leaves as TLS, to whom it is
// for and to nobody else, by HTTP and as bytes.
func TestOriginate(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{}, nil)
	ca := n.CAFile()
	api, other := n.API.Name, n.API2.Name
	http80 := "{number: 80, name: http, protocol: HTTP, targetPort: 443}, {number: 443, name: https, protocol: HTTPS}"
	wrong, unknown := "{address: "+n.API.V4.String()+`}, {address: "`+n.API.V6.String()+`"}`, "unknown.internal"
	port80 := "{portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE, caCertificates: " + ca + "}}]}"
	tcp := `"` + echoVIP4 + `", "` + echoVIP6 + `"`
	n.write(t, "originate.yaml", nameEntry("api", api, http80)+destinationRule("api", api, port80)+
		// By a rule to the other port, and a subset.
		nameEntry("other", other, "{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}")+`---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: other}
spec:
  hosts: [`+other+`]
  http:
  - match: [{port: 80}]
    route: [{destination: {host: `+other+`, subset: tls-origination, port: {number: 443}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: other}
spec:
  host: `+other+`
  subsets:
  - name: tls-origination
    trafficPolicy: {portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, caCertificates: `+ca+`}}]}
`+
		service("wrong", "wrong.internal", "{number: 80, name: http, protocol: HTTP, targetPort: 443}", webVIP4, wrong)+destinationRule("wrong", "wrong.internal", port80)+
		service("unknown", unknown, "{number: 80, name: http, protocol: HTTP, targetPort: 443}", dbVIP, wrong)+
		destinationRule("unknown", unknown, "{tls: {mode: SIMPLE, subjectAltNames: ["+api+"]}}")+
		service("tcp", "tcp.internal", "{number: 8080, name: tcp, protocol: TCP, targetPort: 443}", tcp, wrong)+
		destinationRule("tcp", "tcp.internal", "{tls: {mode: SIMPLE, sni: "+api+", caCertificates: "+ca+"}}"))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.learn(t, api, other)
	for _, family := range []string{"-4", "-6"} {
		for _, host := range []string{api, other} {
			a := n.curl(t, n.in, family, "http://"+host+"/x")
			if e := asked(t, a); a.status != 200 || e.SNI != host || e.Host != host || !strings.HasSuffix(e.Local, ":443") || e.Proto != "HTTP/1.1" {
				t.Errorf("%s %s: %+v, %+v", family, host, a, e)
			}
			// What is TLS already goes on as it is.
			if a := n.curl(t, n.in, family, "https://"+host+"/x"); a.status != 200 {
				t.Errorf("%s https %s: %+v", family, host, a)
			}
			// The twin: without egressd, plain text is what leaves.
			if e := asked(t, n.curl(t, nil, family, "http://"+host+"/x")); e.SNI != "" || !strings.HasSuffix(e.Local, ":80") {
				t.Errorf("%s uncaptured %s: %+v", family, host, e)
			}
		}
	}
	for _, vip := range []string{echoVIP4, "[" + echoVIP6 + "]"} {
		if e := asked(t, n.curl(t, n.in, "http://"+vip+":8080/bytes")); e.SNI != api {
			t.Errorf("TCP by %s: %+v", vip, e)
		}
	}
	for host, says := range map[string]string{"wrong.internal": "wrong.internal", unknown: "unknown authority"} {
		a := n.curl(t, n.in, "http://"+host+"/x")
		if a.status != 503 || !strings.Contains(a.body, says) {
			t.Errorf("%s: %+v", host, a)
		}
		e := n.event(t, "a request to "+host, func(e flow.Event) bool { return e.Kind == flow.Request && e.Name == host })
		if e.Reason != policy.ReasonTLSVerify || !strings.Contains(e.ResponseFlags, "UF") || !strings.Contains(e.Detail, says) {
			t.Errorf("%s: %+v", host, e)
		}
	}
	if m := n.curl(t, nil, "http://127.0.0.1:15020/metrics").body; !strings.Contains(m, `reason="upstream-tls-verify"`) {
		t.Error("the metrics do not count it")
	}
	if out := n.egressd(t, "explain", "http://"+api+"/").stdout; !strings.Contains(out, "TLS is originated (SIMPLE), trusting the CA of "+ca) {
		t.Errorf("explain says nothing of TLS: %s", out)
	}
}

// TestOriginateMutual: openssl's server is shown the client certificate of the policy,
// which is replaced without a restart; without one it refuses, and the reason says so.
func TestOriginateMutual(t *testing.T) {
	t.Parallel()
	testenv.RequireTool(t, "openssl")
	n := prepare(t, map[string]string{}, nil, "--credentials-dir", "{dir}/keys")
	dir := filepath.Join(n.Dir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ssl := func(args ...string) {
		t.Helper()
		if e := n.run(t, nil, "openssl", args...); e.code != 0 {
			t.Fatalf("openssl %v: %s", args, e.stderr)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	ssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=ca", "-keyout", file("ca.key"), "-out", file("ca.crt"), "-days", "2")
	issue := func(name, subject string, days string) {
		t.Helper()
		ssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN="+subject, "-addext", "subjectAltName=DNS:"+subject,
			"-addext", "basicConstraints=critical,CA:FALSE", "-CA", file("ca.crt"), "-CAkey", file("ca.key"), "-keyout", file(name+".key"), "-out", file(name+".crt"), "-days", days)
	}
	issue("server", "mutual.internal", "2")
	issue("client", "the-client", "2")
	four, six := n.Echo.Addr.Addr(), n.Echo6.Addr.Addr()
	serve := func(port, cert string, more ...string) {
		t.Helper()
		c := n.Net.Command(t.Context(), nil, "openssl", append([]string{"s_server", "-accept", "*:" + port, "-www", "-cert", file(cert + ".crt"), "-key", file(cert + ".key"), "-CAfile", file("ca.crt")}, more...)...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	}
	serve("4431", "server", "-Verify", "1", "-verify_return_error")
	tls := func(more string) string { return "{tls: {caCertificates: " + file("ca.crt") + ", " + more + "}}" }
	pair := "mode: MUTUAL, clientCertificate: " + file("client.crt") + ", privateKey: " + file("client.key")
	at := func(name, host, vip, target string, a netip.Addr) string {
		return service(name, host, "{number: 80, name: http, protocol: HTTP, targetPort: "+target+"}", vip, `{address: "`+a.String()+`"}`)
	}
	n.write(t, "mutual.yaml", at("mutual", "mutual.internal", webVIP4, "4431", four)+destinationRule("mutual", "mutual.internal", tls(pair))+
		at("mutual6", "mutual6.internal", "240.0.9.1", "4431", six)+destinationRule("mutual6", "mutual6.internal", tls(pair+", subjectAltNames: [mutual.internal]"))+
		at("bare", "bare.internal", dbVIP, "4431", four)+destinationRule("bare", "bare.internal", tls("mode: SIMPLE, subjectAltNames: [mutual.internal]")))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "openssl serves", func() bool {
		e := n.run(t, nil, "openssl", "s_client", "-connect", netip.AddrPortFrom(four, 4431).String(), "-cert", file("client.crt"), "-key", file("client.key"))
		return e.code == 0
	})
	for _, host := range []string{"mutual.internal", "mutual6.internal"} {
		if a := n.curl(t, n.in, "http://"+host+"/"); a.status != 200 || !strings.Contains(a.body, "the-client") {
			t.Errorf("%s: %+v", host, a)
		}
	}
	for host, want := range map[string]policy.Reason{"bare.internal": policy.ReasonTLSRejected} {
		if a := n.curl(t, n.in, "http://"+host+"/"); a.status != 503 {
			t.Errorf("%s: %+v", host, a)
		}
		if e := n.event(t, "a request to "+host, func(e flow.Event) bool { return e.Kind == flow.Request && e.Name == host }); e.Reason != want || !strings.Contains(e.ResponseFlags, "UF") {
			t.Errorf("%s: %+v", host, e)
		}
	}
	issue("client", "the-next-client", "2")
	eventually(t, soon, "the new certificate is shown", func() bool {
		return strings.Contains(n.curl(t, n.in, "http://mutual.internal/").body, "the-next-client")
	})
}

// TestCredentials: tokens of a Secret and of a file are added on the way out, are
// replaced without a restart, and are in nothing that egressd says or keeps. They do
// not go out in plain text, nor does what a client says in their place.
func TestCredentials(t *testing.T) {
	t.Parallel()
	n := prepare(t, map[string]string{}, nil, "--credentials-dir", "{dir}/keys", "--log-level", "debug", "--admin-address", "localhost:15000",
		"--access-log", "{dir}/access.log", "--access-log-format", "%REQ(:METHOD)% %REQ(X-KEY)% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n")
	dir := filepath.Join(n.Dir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	token := func(value string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token("hush-file-1")
	api, plain := n.API.Name, n.API2.Name
	via := func(name, host string) string {
		return `---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: ` + name + `
  annotations: {egressd.dev/request-header-from: "Authorization=secret://default/api/token,X-Key=file://` + dir + `/token"}
spec:
  hosts: [` + host + `]
  http:
  - route: [{destination: {host: ` + host + `}}]
`
	}
	secret := func(value string) string {
		return "---\napiVersion: v1\nkind: Secret\nmetadata: {name: api}\nstringData: {token: Bearer " + value + ", tls.key: hush-key}\n"
	}
	n.write(t, "secret.yaml", secret("hush-secret-1"))
	n.write(t, "api.yaml", nameEntry("api", api, "{number: 80, name: http, protocol: HTTP, targetPort: 443}")+
		destinationRule("api", api, "{tls: {mode: SIMPLE, caCertificates: "+n.CAFile()+"}}")+via("api", api)+
		nameEntry("plain", plain, "{number: 80, name: http, protocol: HTTP}")+via("plain", plain))
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	has := func(a answer, secret, file string) bool {
		if a.status != 200 {
			return false
		}
		e := asked(t, a)
		return strings.Join(e.Header["Authorization"], "|") == "Bearer "+secret && strings.Join(e.Header["X-Key"], "|") == file
	}
	for _, family := range []string{"-4", "-6"} {
		if a := n.curl(t, n.in, family, "-H", "Authorization: hush-mine", "http://"+api+"/x"); !has(a, "hush-secret-1", "hush-file-1") {
			t.Errorf("%s: %+v", family, a)
		}
	}
	hits := n.API2.Hits()
	if a := n.curl(t, n.in, "http://"+plain+"/x"); a.status != 503 || n.API2.Hits() != hits {
		t.Errorf("in plain text: %+v", a)
	}
	n.event(t, "a credential in plain text", func(e flow.Event) bool { return e.Reason == policy.ReasonCredential })
	// A server answers TRACE with what it got: the workload would read the value there.
	hits = n.API.Hits()
	if a := n.curl(t, n.in, "-X", "TRACE", "http://"+api+"/x"); a.status != 503 || n.API.Hits() != hits || strings.Contains(a.body, "hush") {
		t.Errorf("TRACE: %+v", a)
	}
	if a := n.curl(t, nil, "-X", "TRACE", "http://"+plain+"/x"); a.status != 200 {
		t.Errorf("uncaptured, TRACE: %+v", a)
	}
	if err := os.Remove(filepath.Join(dir, "token")); err != nil {
		t.Fatal(err)
	}
	eventually(t, soon, "without the file nothing goes out", func() bool {
		hits = n.API.Hits()
		a := n.curl(t, n.in, "http://"+api+"/x")
		return a.status == 503 && n.API.Hits() == hits
	})
	n.event(t, "a credential that is gone", func(e flow.Event) bool {
		return e.Reason == policy.ReasonCredential && e.Name == api && strings.Contains(e.Detail, "X-Key")
	})
	token("hush-file-2")
	n.write(t, "secret.yaml", secret("hush-secret-2"))
	eventually(t, soon, "the new values go out", func() bool {
		return has(n.curl(t, n.in, "http://"+api+"/x"), "hush-secret-2", "hush-file-2")
	})
	// The twin: without egressd nothing is added.
	if e := asked(t, n.curl(t, nil, "http://"+plain+"/x")); len(e.Header["Authorization"]) > 0 {
		t.Errorf("uncaptured: %+v", e)
	}
	logged, err := os.ReadFile(filepath.Join(n.Dir(), "access.log"))
	if err != nil {
		t.Error(err)
	}
	for what, text := range map[string]string{
		"log": n.d.Log(), "explain": n.egressd(t, "explain", "http://"+api+"/").stdout, "explain -o json": n.egressd(t, "explain", "-o", "json", "http://"+api+"/").stdout,
		"status": n.egressd(t, "status", "-o", "json").stdout, "flows": n.egressd(t, "flows", "-o", "json").stdout,
		"metrics": n.curl(t, nil, "http://127.0.0.1:15020/metrics").body, "config_dump": n.curl(t, nil, "http://127.0.0.1:15000/config_dump").body,
		"certs": n.curl(t, nil, "http://127.0.0.1:15000/certs").body, "flows by TCP": n.curl(t, nil, "http://127.0.0.1:15000/flows").body,
		"access log": string(logged),
	} {
		if text == "" || strings.Contains(text, "hush") {
			t.Errorf("%s is empty, or has a token: %s", what, text)
		}
	}
	n.tells(t, "http://"+api+"/", "hush")
	eventually(t, soon, "the last good policy is kept", func() bool { _, err := os.Stat(filepath.Join(n.d.StateDir(), agent.LastGoodFile)); return err == nil })
	if kept, err := os.ReadFile(filepath.Join(n.d.StateDir(), agent.LastGoodFile)); err != nil || strings.Contains(string(kept), "hush") {
		t.Errorf("the last good policy has a token, or %v", err)
	}
}

// tells fails when an answer of the admin interface that there is to read, by its own
// list, has a word.
func (n *node) tells(t *testing.T, target, word string) {
	t.Helper()
	const at = "http://127.0.0.1:15000"
	paths := []string{"/ui/flows", "/ui/app.js"}
	for line := range strings.Lines(n.curl(t, nil, at+"/help").body) {
		if path, about, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && !strings.HasPrefix(about, "POST") {
			paths = append(paths, strings.Replace(path, "URL", url.QueryEscape(target), 1))
		}
	}
	if len(paths) < 15 {
		t.Errorf("the list has %q", paths)
	}
	for _, path := range paths {
		if a := n.curl(t, nil, at+path); a.status != 200 || a.body == "" || strings.Contains(a.body, word) {
			t.Errorf("%s: %d, %q", path, a.status, a.body)
		}
	}
}
