// SPDX-License-Identifier: Apache-2.0

//go:build node

package nodetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/world"
)

const (
	istioTLSPort = 443
	apiTLSPort   = 8443
)

// mayReadSecrets lets egressd read the Secrets of a namespace, as the chart's value
// secrets does.
const mayReadSecrets = `---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: egressd-secrets, namespace: NAMESPACE}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: egressd-secrets, namespace: NAMESPACE}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: egressd-secrets}
subjects: [{kind: ServiceAccount, name: egressd, namespace: egressd-system}]
`

// tlsGateways end TLS for the shop: Istio's by credentialName, the Gateway API's by
// certificateRefs.
const tlsGateways = `---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: shop-tls, namespace: NAMESPACE}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example], tls: {mode: SIMPLE, credentialName: shop-cert}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop-tls, namespace: NAMESPACE}
spec:
  hosts: [shop.example]
  gateways: [shop-tls]
  http: [{route: [{destination: {host: server.NAMESPACE.svc.cluster.local, port: {number: 80}}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: egressd
  addresses: [{type: IPAddress, value: "` + world.NodeV4 + `"}, {type: IPAddress, value: "` + world.NodeV6 + `"}]
  listeners:
  - {name: http, port: 8080, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: https, port: 8443, protocol: HTTPS, allowedRoutes: {namespaces: {from: All}}, tls: {certificateRefs: [{name: shop-cert}]}}
`

// TestGatewaysOfSecrets: Gateways end TLS with what Secrets have, for Istio's and the
// Gateway API's, and with what they have later when they change. Before there is a
// Secret nobody is served: the twin.
func TestGatewaysOfSecrets(t *testing.T) {
	n, ns := shopWithGateways(t)
	n.Apply(t, strings.ReplaceAll(mayReadSecrets, "NAMESPACE", ns)+strings.ReplaceAll(mayReadSecrets, "NAMESPACE", "infra"))
	n.Apply(t, strings.ReplaceAll(tlsGateways, "NAMESPACE", ns))
	first, second := newCertificate(t, shop), newCertificate(t, shop)
	all := entrances(istioTLSPort, apiTLSPort)
	for _, at := range all {
		if err := visitTLS(n.tlsVisitor(at, first.pool)); err == nil {
			t.Fatalf("%s serves TLS without a certificate", at)
		}
	}
	n.Apply(t, first.secret(ns)+first.secret("infra"))
	for _, at := range all {
		Eventually(t, 60*time.Second, func() error { return visitTLS(n.tlsVisitor(at, first.pool)) })
		if err := visitTLS(n.tlsVisitor(at, second.pool)); err == nil {
			t.Errorf("%s: a client that trusts another certificate was served", at)
		}
	}
	n.Apply(t, second.secret(ns)+second.secret("infra"))
	for _, at := range all {
		Eventually(t, 60*time.Second, func() error { return visitTLS(n.tlsVisitor(at, second.pool)) })
	}
	Eventually(t, 60*time.Second, func() error {
		got, err := n.Kubectl("", "get", "gateways.gateway.networking.k8s.io/edge", "-n", "infra", "-o", `jsonpath={range .status.listeners[?(@.name=="https")].conditions[*]}{.type}={.status} {end}`)
		if err == nil && (!strings.Contains(got, "Programmed=True") || !strings.Contains(got, "ResolvedRefs=True")) {
			err = fmt.Errorf("the listener https has %q", got)
		}
		return err
	})
}

// certificate is one that signs itself.
type certificate struct {
	cert, key []byte // PEM
	pool      *x509.CertPool
}

func newCertificate(t *testing.T, name string) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c := certificate{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}),
		pool: x509.NewCertPool(),
	}
	c.pool.AppendCertsFromPEM(c.cert)
	return c
}

func (c certificate) secret(namespace string) string {
	text := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {name: shop-cert, namespace: %s}\ndata: {tls.crt: %s, tls.key: %s}\n", namespace, text(c.cert), text(c.key))
}

// tlsVisitor is a client outside of the node that trusts what is in pool.
func (n *Node) tlsVisitor(at netip.AddrPort, pool *x509.CertPool) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return n.World.Net.Dial(ctx, network, at)
		},
	}}
}

// visitTLS is visit over TLS.
func visitTLS(c *http.Client) error { return get(c, "https://"+shop+"/", http.StatusOK) }
