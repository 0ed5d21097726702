// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/internal/world"
)

const (
	byAuthz     = "AuthorizationPolicy, which reads paths and hosts as servers do"
	byAddress   = "gateway: the visitor's address is the connection's"
	byTLSServer = "gateway: the host must be of the server that the SNI has chosen"
	byClientCA  = "gateway: the CA of the server's clients"
	noProxy     = "the site does not know the PROXY protocol"
	inside      = `GET /inside HTTP/1.1\r\nHost: open.edge.example\r\nConnection: close\r\n`
)

// visitors are attempts of who comes from the internet to the node's gateway. Their
// twins are made at the site behind it.
var visitors = []row{
	{attack: "visitor: path under DENY", how: "/admin", want: "HTTP 403", by: byAuthz, do: guarded("{E4}", `/admin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "//admin", want: "HTTP 403", by: byAuthz, do: guarded("{E6}", `//admin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/%61dmin", want: "HTTP 403", by: byAuthz, do: guarded("{E4}", `/%61dmin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/admin%2Fx", want: "HTTP 403", by: byAuthz, do: guarded("{E6}", `/admin%2Fx`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/x/../admin", want: "HTTP 403", by: byAuthz, do: guarded("{E4}", `/x/../admin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/x/%2e%2e/admin", want: "HTTP 403", by: byAuthz, do: guarded("{E6}", `/x/%2e%2e/admin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/x/..;/admin", want: "HTTP 403", by: byAuthz, do: guarded("{E4}", `/x/..;/admin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/admin;x", want: "HTTP 403", by: byAuthz, do: guarded("{E6}", `/admin;x`), proof: appHits},
	{attack: "visitor: path under DENY", how: `/x\..\admin`, want: "HTTP 403", by: byAuthz, do: guarded("{E4}", `/x\\..\\admin`), proof: appHits},
	{attack: "visitor: path under DENY", how: "/x/../admin over HTTP/2", want: "h2 no", by: byAuthz, do: visit("names", "h2_path", "{E4}", "{web}", "open.edge.example", "/x/../admin"), proof: appHits, noTwin: "the site speaks HTTP/2 over TLS alone"},
	{attack: "visitor: host under DENY", how: "with a port", want: "HTTP 403", by: byAuthz, do: asHost("{E4}", "secret.edge.example:8080"), proof: appHits},
	{attack: "visitor: host under DENY", how: "with a dot at the end", want: "HTTP 403", by: byAuthz, do: asHost("{E6}", "secret.edge.example."), proof: appHits},
	{attack: "visitor: host under DENY", how: "in capitals", want: "HTTP 403", by: byAuthz, do: asHost("{E4}", "SECRET.edge.example"), proof: appHits},
	{attack: "visitor: host under DENY", how: "with user information", want: "HTTP 400", by: byCore, do: asHost("{E6}", "x@secret.edge.example"), proof: appHits, noTwin: siteRefuses},
	{attack: "visitor: host under DENY", how: "in the request target, another one in Host", want: "HTTP 400", by: byCore, do: visit("names", "http", "{E4}", "{web}", `GET http://secret.edge.example/ HTTP/1.1\r\nHost: open.edge.example\r\n\r\n`), proof: appHits},
	{attack: "visitor: host under DENY", how: "in a second Host field", want: "HTTP 400", by: byCore, do: visit("names", "http", "{E6}", "{web}", `GET / HTTP/1.1\r\nHost: open.edge.example\r\nHost: secret.edge.example\r\n\r\n`), proof: appHits, noTwin: siteRefuses},

	{attack: "visitor: somebody else's address", how: "X-Forwarded-For", want: "HTTP 403", by: byAddress, do: visit("names", "http", "{E4}", "{web}", inside+`X-Forwarded-For: 192.0.2.7\r\n\r\n`), proof: appHits},
	{attack: "visitor: somebody else's address", how: "X-Forwarded-For in several fields, X-Real-IP, Forwarded, X-Envoy-External-Address", want: "HTTP 403", by: byAddress, do: visit("names", "http", "{E6}", "{web}", inside+`X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.8\r\nX-Real-IP: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nX-Envoy-External-Address: 192.0.2.7\r\n\r\n`), proof: appHits},
	{attack: "visitor: somebody else's address", how: "Connection: X-Forwarded-For, by which the next hop would drop the true one", want: "HTTP 403", by: byAddress, do: visit("names", "http", "{E4}", "{web}", inside+`Connection: X-Forwarded-For\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n`), proof: appHits},
	{attack: "visitor: somebody else's address", how: "a PROXY header, to a port that asks for none", want: "HTTP 400", by: byCore, do: visit("names", "http", "{E4}", "{web}", `PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n`+inside+`\r\n`), proof: appHits, noTwin: noProxy},
	{attack: "visitor: somebody else's address", how: "a PROXY header, to a port that asks for one", want: "HTTP 200", by: "the header has no proof: nobody but the balancer may reach such a port", open: true, do: visit("names", "http", "{E6}", "{balanced}", `{proxy}`+inside+`\r\n`), proof: appHits},
	{attack: "visitor: somebody else's address", how: "no PROXY header, to such a port", want: "ECONNRESET|silence", by: "gateway: proxy-protocol", do: visit("names", "http", "{E4}", "{balanced}", inside+`\r\n`), proof: appHits},

	{attack: "visitor: server of another SNI", how: "Host of a server that asks for client certificates", want: "HTTP 421", by: byTLSServer, do: visit("names", "https", "{E4}", "{tls}", "open.edge.example", "shut.edge.example"), proof: appHits},
	{attack: "visitor: server of another SNI", how: "the same with a port and a dot", want: "HTTP 421", by: byTLSServer, do: visit("names", "https", "{E6}", "{tls}", "open.edge.example", "shut.edge.example.:443"), proof: appHits},
	{attack: "visitor: server of another SNI", how: "no SNI, that Host", want: "ECONNRESET|closed|TLS error", by: "gateway: no server has that name", do: visit("names", "https", "{E4}", "{tls}", "", "shut.edge.example"), proof: appHits},
	{attack: "visitor: client certificate", how: "none", want: "TLS error|ECONNRESET", by: byClientCA, do: visit("visitors", "https_as", "{E6}", "{tls}", "shut.edge.example", ""), proof: appHits},
	{attack: "visitor: client certificate", how: "of a CA of the visitor's own, under the same name", want: "TLS error|ECONNRESET", by: byClientCA, do: visit("visitors", "https_as", "{E4}", "{tls}", "shut.edge.example", "{dir}/stranger.pem"), proof: appHits},
	{attack: "visitor: client certificate", how: "of that CA, the right one in X-Forwarded-Client-Cert, over plain HTTP", want: "passed without it", by: "gateway: the field is removed", do: forgedClient, seen: is("passed on")},

	{attack: "visitor: request smuggling", how: "Content-Length and chunked, a request for /admin behind", want: "HTTP 400", by: byCore, do: visit("names", "http", "{E4}", "{web}", `POST / HTTP/1.1\r\nHost: open.edge.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\nHost: open.edge.example\r\n\r\n`), proof: appHits},
	{attack: "visitor: request smuggling", how: "a coding that is almost chunked", want: "HTTP 501|HTTP 400", by: byCore, do: visit("names", "http", "{E6}", "{web}", `POST / HTTP/1.1\r\nHost: open.edge.example\r\nContent-Length: 4\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n`), proof: appHits, noTwin: siteRefuses},
	{attack: "visitor: HTTP/2 flood", how: "20,000 PING frames, and then a request", want: "h2 calm|h2 ended", by: byFrames, do: visit("names", "h2_flood", "{E4}", "{web}", "open.edge.example", "ping"), proof: appHits, noTwin: "the site speaks HTTP/2 over TLS alone"},
	{attack: "visitor: HTTP/2 flood", how: "20,000 empty CONTINUATION frames within a header", want: "h2 calm", by: byFrames, do: visit("names", "h2_flood", "{E6}", "{web}", "open.edge.example", "continuation"), proof: appHits, noTwin: "the site speaks HTTP/2 over TLS alone"},
	{attack: "visitor: ClientHello without end", how: "4 MB of one that says it has 16 MB", want: "ECONNRESET|EPIPE", by: "forwarding core: a ClientHello has a bound", do: visit("visitors", "endless_hello", "{E4}", "{tls}", "4"), seen: is("taken"), noTwin: siteRefuses},

	{attack: "visitor: the gateway as a proxy", how: "CONNECT to the stranger", want: "HTTP 400", by: byCore, do: visit("names", "http", "{E4}", "{web}", `CONNECT {A4}:80 HTTP/1.1\r\nHost: {A4}\r\n\r\n`), noTwin: "the site is no proxy"},
	{attack: "visitor: the gateway as a proxy", how: "Host of a site that workloads may reach", want: "HTTP 200", by: "gateway: routes say where a request goes, not its host", do: visit("names", "http", "{E6}", "{web}", `GET / HTTP/1.1\r\nHost: {google}\r\n\r\n`), proof: googleHits, noTwin: "the site is not the other one"},
	{attack: "visitor: the node's own", how: "a route to egressd's admin socket, which is an allowed endpoint", want: "HTTP 502|HTTP 503", by: byItself, do: visit("names", "http", "{E4}", "{web}", `GET /to-admin HTTP/1.1\r\nHost: open.edge.example\r\n\r\n`), seen: has("200"), noTwin: aPolicy},
	{attack: "visitor: the node's own", how: "a route to 169.254.169.254", want: "HTTP 502|HTTP 503", by: byConsent, do: visit("names", "http", "{E6}", "{web}", `GET /to-metadata HTTP/1.1\r\nHost: open.edge.example\r\n\r\n`), proof: wireTo("169.254.169.254", 80), noTwin: aPolicy},
}

// visit is an attempt from the internet. {E4}, {E6} and the ports are the gateway's; for
// the twin they are the site's.
func visit(module, function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		return a.pythonIn(a.Net, nil, cg == nil, append([]string{module, function}, args...)...)
	}
}

func guarded(addr, path string) func(*arena, *world.Cgroup) string {
	return visit("names", "http", addr, "{web}", "GET "+path+` HTTP/1.1\r\nHost: open.edge.example\r\nConnection: close\r\n\r\n`)
}

func asHost(addr, host string) func(*arena, *world.Cgroup) string {
	return visit("names", "http", addr, "{web}", `GET / HTTP/1.1\r\nHost: `+host+`\r\nConnection: close\r\n\r\n`)
}

// forgedClient says whether the site is told of a certificate that a visitor writes down.
func forgedClient(a *arena, cg *world.Cgroup) string {
	return visit("visitors", "field", "{E4}", "{web}", "open.edge.example", "X-Forwarded-Client-Cert", "Hash=00;Subject=CN=shut")(a, cg)
}

func appHits(a *arena) int { return a.app.Hits() }

// visitorFlags make the arena's node the gateway.
var visitorFlags = []string{"--gateway-selector", "edge=visitors"}

// visitorWords are what rows may use in arguments, for visitors of the gateway and for
// those of the site.
func (a *arena) visitorWords() (gateway, site []string) {
	proxy := `PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\n`
	return []string{"{E4}", world.NodeV4, "{E6}", world.NodeV6, "{web}", "8080", "{tls}", "8443", "{balanced}", "8090", "{proxy}", proxy, "{dir}", a.Dir()},
		[]string{"{E4}", a.app.V4.String(), "{E6}", a.app.V6.String(), "{web}", "80", "{tls}", "443", "{balanced}", "80", "{proxy}", "", "{dir}", a.Dir()}
}

// addVisitors makes the site behind the gateway. It returns the policy, with the
// gateway's certificate, whose CA is that of its clients.
func (a *arena) addVisitors() []byte {
	var err error
	a.app, err = a.AddOrigin(world.OriginConfig{Names: []string{"app.edge.example", "open.edge.example", "shut.edge.example"}, V4: addr("203.0.113.120"), V6: addr("2001:db8:bad::120")})
	a.must(err)
	text, err := os.ReadFile("testdata/visitors.yaml")
	a.must(err)
	ca, cert, key := a.certificate("edge")
	_, theirs, theirKey := a.certificate("edge") // the same names, and another key
	a.must(os.WriteFile(filepath.Join(a.Dir(), "stranger.pem"), append(theirs, theirKey...), 0o600))
	encoded := base64.StdEncoding.EncodeToString
	return append(text, fmt.Sprintf("---\napiVersion: v1\nkind: Secret\nmetadata: {name: edge, namespace: edge}\ndata: {tls.crt: %s, tls.key: %s, ca.crt: %s}\n",
		encoded(cert), encoded(key), encoded(ca))...)
}

// certificate makes a CA and a certificate of it, in PEM.
func (a *arena) certificate(name string) (ca, cert, key []byte) {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.must(err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name + " CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
		DNSNames: []string{"open.edge.example", "shut.edge.example"},
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, caKey.Public(), caKey)
	a.must(err)
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, root, leafKey.Public(), caKey)
	a.must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(leafKey)
	a.must(err)
	encode := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	return encode("CERTIFICATE", rootDER), encode("CERTIFICATE", leafDER), encode("PRIVATE KEY", keyDER)
}
