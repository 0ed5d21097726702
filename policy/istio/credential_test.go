// SPDX-License-Identifier: Apache-2.0

package istio

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
	"strings"
	"syscall"
	"testing"
	"time"
)

var credentialTime = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// certificate makes a certificate and its key, valid for the given time.
func certificate(t *testing.T, from, to time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

const gatewayWith = `{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: gw}, spec: {servers: [
{port: {number: 443, name: tls, protocol: HTTPS}, hosts: ["*"], tls: {%s}}]}}`

// warnings loads a gateway with TLS settings beside other documents, and
// returns what is said about its certificates.
func warnings(t *testing.T, settings string, readFile func(string) ([]byte, error), documents ...string) []string {
	t.Helper()
	data := fmt.Sprintf(gatewayWith, settings) + "\n---\n" + strings.Join(documents, "\n---\n")
	cfg, findings := Load([]File{{Name: "f", Data: []byte(data)}}, Options{Now: credentialTime, ReadFile: readFile})
	if cfg == nil {
		t.Fatalf("refused: %v", findings)
	}
	var out []string
	for _, f := range findings {
		if strings.Contains(f.Text, "PRIVATE") {
			t.Errorf("a finding shows what is secret: %s", f.Text)
		}
		if f.Text != "a server of protocol HTTPS is not acted on yet" {
			out = append(out, f.Text)
		}
	}
	return out
}

func secretOf(name, field string, values ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\nmetadata: {name: %s}\ntype: Opaque\n%s:\n", name, field)
	for i := 0; i+1 < len(values); i += 2 {
		v := values[i+1]
		if field == "data" {
			v = base64.StdEncoding.EncodeToString([]byte(v))
		}
		fmt.Fprintf(&b, "  %s: %q\n", values[i], v)
	}
	return b.String()
}

// TestCredentials: a credentialName whose Secret is there and good is not
// worth a word; everything else is.
func TestCredentials(t *testing.T) {
	day := 24 * time.Hour
	cert, key := certificate(t, credentialTime.Add(-day), credentialTime.Add(day))
	old, oldKey := certificate(t, credentialTime.Add(-2*day), credentialTime.Add(-day))
	early, earlyKey := certificate(t, credentialTime.Add(day), credentialTime.Add(2*day))
	simple, mutual := "mode: SIMPLE, credentialName: c", "mode: MUTUAL, credentialName: c"
	tests := map[string]struct {
		settings string
		secrets  []string
		want     []string // parts of the findings
	}{
		"tls.crt":        {simple, []string{secretOf("c", "data", "tls.crt", cert, "tls.key", key)}, nil},
		"cert":           {simple, []string{secretOf("c", "data", "cert", cert, "key", key)}, nil},
		"stringData":     {simple, []string{secretOf("c", "stringData", "tls.crt", cert, "tls.key", key)}, nil},
		"scheme":         {"mode: SIMPLE, credentialName: 'kubernetes://c'", []string{secretOf("c", "data", "cert", cert, "key", key)}, nil},
		"mutual":         {mutual, []string{secretOf("c", "data", "cert", cert, "key", key, "ca.crt", cert)}, nil},
		"mutual cacert":  {mutual, []string{secretOf("c", "data", "cert", cert, "key", key), secretOf("c-cacert", "data", "cacert", cert)}, nil},
		"missing":        {simple, nil, []string{`Referenced credentialName not found: "c"`}},
		"no key":         {simple, []string{secretOf("c", "data", "tls.crt", cert)}, []string{"missing tls.crt and tls.key"}},
		"no CA":          {mutual, []string{secretOf("c", "data", "cert", cert, "key", key)}, []string{"missing ca.crt"}},
		"expired":        {simple, []string{secretOf("c", "data", "cert", old, "key", oldKey)}, []string{"expired at 2029-12-31T00:00:00Z"}},
		"not yet":        {simple, []string{secretOf("c", "data", "cert", early, "key", earlyKey)}, []string{"not valid before 2030-01-02T00:00:00Z"}},
		"expired in CA":  {mutual, []string{secretOf("c", "data", "cert", cert, "key", key, "cacert", cert+old)}, []string{"the CA of Secret default/c has a certificate that expired"}},
		"other's key":    {simple, []string{secretOf("c", "data", "cert", cert, "key", oldKey)}, []string{"private key does not match"}},
		"no PEM":         {simple, []string{secretOf("c", "data", "cert", "nothing", "key", key)}, []string{"no certificate in PEM form"}},
		"no certificate": {simple, []string{secretOf("c", "data", "cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "key", key)}, []string{"cannot be read"}},
		"several":        {"mode: SIMPLE, credentialNames: [c, d]", []string{secretOf("c", "data", "cert", cert, "key", key)}, []string{`not found: "d"`}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := warnings(t, tt.settings, nil, tt.secrets...)
			ok := len(got) == len(tt.want)
			for i := range tt.want {
				ok = ok && strings.Contains(got[i], tt.want[i])
			}
			if !ok {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestBrokenSecret: a Secret that cannot be read is an error that shows
// nothing of it.
func TestBrokenSecret(t *testing.T) {
	data := "apiVersion: v1\nkind: Secret\nmetadata: {name: c}\ndata: 'hunter2'\n---\n" +
		"apiVersion: v1\nkind: Secret\nmetadata: {name: d}\ndata: {a: '!hunter2', b: [hunter2], c: 12}\nstringData: {e: {f: hunter2}}\n"
	cfg, findings := Load([]File{{Name: "f", Data: []byte(data)}}, Options{})
	if cfg != nil || len(findings) != 5 {
		t.Errorf("%d findings, want 5: %v", len(findings), findings)
	}
	for _, f := range findings {
		if strings.Contains(f.Text, "hunter2") {
			t.Errorf("a finding shows what is secret: %s", f.Text)
		}
	}
}

// TestCertificateFiles reads real files, and nothing that is not one.
func TestCertificateFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key := certificate(t, credentialTime.Add(-time.Hour), credentialTime.Add(time.Hour))
	pipe, big := filepath.Join(dir, "pipe"), filepath.Join(dir, "big")
	writeFile(t, filepath.Join(dir, "cert"), cert)
	writeFile(t, filepath.Join(dir, "key"), key)
	writeFile(t, big, "")
	if err := os.Truncate(big, maxCredential+1); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	settings := func(cert, key string) string {
		return fmt.Sprintf("mode: SIMPLE, serverCertificate: %s, privateKey: %s", filepath.Join(dir, cert), filepath.Join(dir, key))
	}
	for files, want := range map[[2]string]string{
		{"cert", "key"}:   "",
		{"absent", "key"}: "no such file",
		{"cert", "pipe"}:  "not a file",
		{"big", "key"}:    "more than",
		{"", "key"}:       "not a file",
		{"key", "key"}:    "no certificate in PEM form",
		{"cert", "cert"}:  "cannot be used",
	} {
		got := strings.Join(warnings(t, settings(files[0], files[1]), nil), "; ")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", files, got, want)
		}
	}
}
