// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// authority signs certificates, and has lists of those that it revokes.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// newAuthority makes an authority that by signs; nil: it signs itself.
func newAuthority(t testing.TB, name string, by *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := template(name)
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: encode("CERTIFICATE", der)}
}

// issued is a certificate in files.
type issued struct {
	cert           *x509.Certificate
	chain, key     []byte
	certAt, keyAt  string
	certificateKey crypto.Signer
}

// issue makes a certificate for a name and writes it to dir as NAME.crt and
// NAME.key.
func (a *authority) issue(t testing.TB, dir, name string, change func(*x509.Certificate), withRSA bool) *issued {
	t.Helper()
	var key crypto.Signer
	var err error
	if withRSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := template(name)
	c.KeyUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	c.DNSNames = []string{name}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	out := &issued{cert: cert, chain: append(encode("CERTIFICATE", der), a.pem...), key: encode("PRIVATE KEY", keyDER), certificateKey: key}
	out.certAt, out.keyAt = put(t, dir, name+".crt", out.chain), put(t, dir, name+".key", out.key)
	return out
}

// revoke makes a list of revoked certificates.
func (a *authority) revoke(t testing.TB, next time.Time, list ...*x509.Certificate) []byte {
	t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(time.Now().UnixNano()), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: next}
	for _, c := range list {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return encode("X509 CRL", der)
}

func spiffe(id string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		u, err := url.Parse(id)
		if err != nil {
			panic(err)
		}
		c.URIs = []*url.URL{u}
	}
}

func put(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// rig is an Ingress with a policy in YAML.
type rig struct {
	*Ingress
	events *flow.Log
	stock  *certs.Stock
	now    atomic.Pointer[policy.Snapshot]
}

func newGateway(t testing.TB, yaml string) *rig {
	t.Helper()
	return newGatewayKeys(t, yaml, os.TempDir())
}

// newGatewayKeys is newGateway with private keys in a directory.
func newGatewayKeys(t testing.TB, yaml, keys string) *rig {
	t.Helper()
	r := &rig{events: flow.NewLog(1024), stock: certs.NewStock(certs.Options{})}
	r.Ingress = New(Options{
		Snapshot: r.now.Load, Resolver: noResolver{}, Sink: r.events, Certificates: r.stock, Directories: []string{keys},
		Log: slog.New(slog.DiscardHandler), Rand: func() uint64 { return 0 },
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Shutdown(ctx) // clients may keep connections
	})
	r.apply(t, yaml)
	return r
}

// apply replaces the policy.
func (r *rig) apply(t testing.TB, yaml string) {
	t.Helper()
	cfg, findings := istio.Load([]istio.File{{Name: "gateway.yaml", Data: []byte(yaml)}}, istio.Options{
		GatewaySelector: map[string]string{"istio": "ingressgateway"},
		AllowEndpoints:  []policy.AllowedEndpoint{{Prefix: netip.MustParsePrefix("127.0.0.1/32")}},
	})
	if cfg == nil {
		t.Fatalf("the policy has errors: %v", findings)
	}
	s, err := policy.Compile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.now.Store(s)
	if err := r.Apply(s); err != nil {
		t.Fatal(err)
	}
}

// denied waits for an event that denies for a reason, and has words in its detail.
func (r *rig) denied(t testing.TB, reason policy.Reason, detail string) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for _, e := range r.events.Recent() {
			if e.Reason == reason && strings.Contains(e.Detail, detail) {
				return
			}
		}
		if time.Now().After(end) {
			t.Errorf("no event with %s and %q: %+v", reason, detail, r.events.Recent())
			return
		}
	}
}

// curl runs curl and returns its output, and whether it was content.
func curl(t testing.TB, args ...string) (string, bool) {
	t.Helper()
	testenv.RequireTool(t, "curl")
	out, err := exec.CommandContext(t.Context(), "curl", append([]string{"-q", "-sS", "--noproxy", "*", "--max-time", "20"}, args...)...).CombinedOutput()
	return string(out), err == nil
}
