// SPDX-License-Identifier: Apache-2.0

package certs_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/certs"
)

// pair makes a certificate of its own, and its key.
func pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func subject(t *testing.T, s *certs.Stock, r certs.Where) string {
	t.Helper()
	m, err := s.Material(r)
	if err != nil {
		t.Fatal(err)
	}
	return m.Pair.Leaf.Subject.CommonName
}

// TestFiles: files are read again, and what is broken replaces nothing.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	s := certs.NewStock(certs.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	r := certs.Where{Certificate: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	if _, err := s.Material(r); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without files: %v", err)
	}
	cert, key := pair(t, "one")
	write(t, r.Certificate, cert)
	write(t, r.Key, key)
	write(t, r.CA, cert)
	s.Refresh()
	if got := subject(t, s, r); got != "one" {
		t.Errorf("%q", got)
	}
	m, _ := s.Material(r)
	if len(m.CAs) != 1 || m.CA == nil || m.Expires().IsZero() {
		t.Errorf("%+v", m)
	}
	cert2, key2 := pair(t, "two")
	write(t, r.Certificate, cert2) // the key does not fit yet
	s.Refresh()
	if got := subject(t, s, r); got != "one" {
		t.Errorf("half of a change: %q", got)
	}
	if st := s.Status(); len(st) != 1 || st[0].Error == "" || st[0].Subject != "CN=one" {
		t.Errorf("half of a change: %+v", st)
	}
	write(t, r.Key, key2)
	s.Refresh()
	if got := subject(t, s, r); got != "two" {
		t.Errorf("changed: %q", got)
	}
	if st := s.Status(); st[0].Error != "" {
		t.Errorf("%+v", st)
	}
	os.Remove(r.CA)
	s.Refresh()
	if got := subject(t, s, r); got != "two" || s.Status()[0].Error == "" {
		t.Errorf("a file is gone: %q, %+v", got, s.Status())
	}
	write(t, r.CA, []byte("nothing"))
	s.Refresh()
	if st := s.Status(); !strings.Contains(st[0].Error, "no trusted certificate") {
		t.Errorf("%+v", st)
	}
	body := strings.Split(string(key2), "\n")[1]
	if strings.Contains(log.String(), body) || !strings.Contains(log.String(), "read again") {
		t.Errorf("the log: %s", log.String())
	}
}

// TestRun: a running Stock sees changes of files by itself.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	s := certs.NewStock(certs.Options{Every: 5 * time.Millisecond})
	r := certs.Where{Certificate: filepath.Join(dir, "crt"), Key: filepath.Join(dir, "key")}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for _, name := range []string{"one", "two"} {
		cert, key := pair(t, name)
		write(t, r.Certificate, cert)
		write(t, r.Key, key)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			m, err := s.Material(r)
			if err == nil && m.Pair.Leaf.Subject.CommonName == name {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s was not seen: %v", name, err)
			}
		}
	}
}

// TestSecrets: keys by their names of both spellings; the CA of a Secret of its own;
// what is gone is not used.
func TestSecrets(t *testing.T) {
	cert, key := pair(t, "one")
	ca, _ := pair(t, "ca")
	s := certs.NewStock(certs.Options{})
	r := certs.Where{Secret: "ns/a"}
	if _, err := s.Material(r); !errors.Is(err, certs.ErrMissing) {
		t.Errorf("%v", err)
	}
	s.SetSecrets(map[string]certs.Secret{"ns/a": {"cert": cert, "key": key}, "ns/a-cacert": {"cacert": ca}})
	m, err := s.Material(r)
	if err != nil || m.Pair == nil || len(m.CAs) != 1 || m.CAs[0].Subject.CommonName != "ca" {
		t.Fatalf("%+v, %v", m, err)
	}
	s.SetSecrets(map[string]certs.Secret{"ns/a": {"tls.crt": cert, "tls.key": key, "ca.crt": cert}})
	if m, err = s.Material(r); err != nil || m.CAs[0].Subject.CommonName != "one" {
		t.Fatalf("%+v, %v", m, err)
	}
	s.SetSecrets(map[string]certs.Secret{"ns/a": {"tls.crt": cert}})
	if m, err = s.Material(r); err != nil || m.Pair == nil || s.Status()[0].Error == "" {
		t.Fatalf("broken: %+v, %v", m, err)
	}
	s.SetSecrets(nil)
	if _, err = s.Material(r); !errors.Is(err, certs.ErrMissing) {
		t.Errorf("gone: %v", err)
	}
}

// TestParse: what is there must be of its kind.
func TestParse(t *testing.T) {
	cert, key := pair(t, "one")
	_, other := pair(t, "two")
	for _, c := range []struct {
		name string
		in   certs.PEM
		says string // "": it can be used
	}{
		{"nothing", certs.PEM{}, ""},
		{"a pair", certs.PEM{Certificate: cert, Key: key}, ""},
		{"another's key", certs.PEM{Certificate: cert, Key: other}, "does not match"},
		{"no key", certs.PEM{Certificate: cert}, "no private key"},
		{"no certificate", certs.PEM{Key: key}, "no certificate"},
		{"a key for a CA", certs.PEM{CA: key}, "no trusted certificate"},
		{"an empty CA", certs.PEM{CA: []byte{}}, "no trusted certificate"},
		{"no list", certs.PEM{CRL: cert}, "cannot be read"},
		{"an empty list", certs.PEM{CRL: []byte{}}, "is empty"},
	} {
		_, err := certs.Parse(c.in)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestValues: a value is one of an HTTP field, changes without a restart, and is in
// no error and no log.
func TestValues(t *testing.T) {
	var log bytes.Buffer
	s := certs.NewStock(certs.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	file := certs.ValueWhere{File: filepath.Join(t.TempDir(), "token")}
	if _, err := s.Value(file); err == nil {
		t.Error("a file that is not there has a value")
	}
	write(t, file.File, []byte("Bearer hush-1\n"))
	s.Refresh()
	if v, err := s.Value(file); v != "Bearer hush-1" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	write(t, file.File, []byte("Bearer hush-2\nX-Other: hush-3"))
	s.Refresh()
	if v, err := s.Value(file); v != "Bearer hush-1" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	if err := os.Remove(file.File); err != nil {
		t.Fatal(err)
	}
	s.Refresh()
	if v, err := s.Value(file); v != "" || err == nil {
		t.Errorf("a file that is gone: %q", v)
	}
	write(t, file.File, []byte("Bearer hush-8"))
	s.Refresh()
	if v, err := s.Value(file); v != "Bearer hush-8" || err != nil {
		t.Errorf("a file that is back: %q, %v", v, err)
	}
	secret := certs.ValueWhere{Secret: "ns/a", Key: "token"}
	for _, c := range []struct {
		in   map[string]certs.Secret
		want string
	}{
		{nil, ""},
		{map[string]certs.Secret{"ns/a": {"other": []byte("hush-4")}}, ""},
		{map[string]certs.Secret{"ns/a": {"token": []byte("hush-5")}}, "hush-5"},
		{map[string]certs.Secret{"ns/a": {"token": []byte("hush-6")}}, "hush-6"},
		{map[string]certs.Secret{"ns/a": {"token": []byte("hush\x00")}}, ""},
		{map[string]certs.Secret{"ns/a": {"token": nil}}, ""},
		{map[string]certs.Secret{"ns/b": {"token": []byte("hush-7")}}, ""},
	} {
		s.SetSecrets(c.in)
		v, err := s.Value(secret)
		if v != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q, %v; want %q", v, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error has it: %v", err)
		}
	}
	if strings.Contains(log.String(), "hush") || log.Len() == 0 {
		t.Errorf("the log: %s", log.String())
	}
}

// TestForget: what nobody asks for is not kept for ever.
func TestForget(t *testing.T) {
	s := certs.NewStock(certs.Options{Every: time.Millisecond, Keep: time.Millisecond})
	if _, err := s.Material(certs.Where{CA: "/nonexistent/ca"}); err == nil {
		t.Fatal("it is there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for end := time.Now().Add(10 * time.Second); len(s.Status()) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is kept")
		}
	}
}

// TestStatus: it says what is in use and why there is nothing newer, and has no key and
// no token in it.
func TestStatus(t *testing.T) {
	cert, key := pair(t, "one")
	ca, _ := pair(t, "ca")
	s := certs.NewStock(certs.Options{})
	where, token := certs.Where{Secret: "ns/a"}, certs.ValueWhere{Secret: "ns/a", Key: "token"}
	look := func() (material, value certs.Kept, raw string) {
		_, _ = s.Material(where) // what is asked for is listed, also what is not there
		_, _ = s.Value(token)
		all := s.Status()
		if len(all) != 2 || all[0].Kind != certs.KindCertificate || all[1].Kind != certs.KindCredential {
			t.Fatalf("%+v", all)
		}
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return all[0], all[1], string(text)
	}
	if m, v, _ := look(); m.Loaded || v.Loaded || m.Error == "" || v.Error == "" {
		t.Errorf("nothing is there: %+v %+v", m, v)
	}
	s.SetSecrets(map[string]certs.Secret{"ns/a": {"tls.crt": cert, "tls.key": key, "ca.crt": ca, "token": []byte("Bearer hush")}})
	m, v, raw := look()
	block, _ := pem.Decode(cert)
	sum := sha256.Sum256(block.Bytes)
	if !m.Loaded || m.Subject != "CN=one" || m.Fingerprint != hex.EncodeToString(sum[:]) || m.Expires.IsZero() || !m.Begins.Before(m.Expires) ||
		len(m.Names) != 1 || len(m.CAs) != 1 || m.CAs[0].Subject != "CN=ca" || m.Error != "" || !v.Loaded || v.Error != "" {
		t.Errorf("%+v %+v", m, v)
	}
	private, _ := pem.Decode(key)
	for _, secret := range []string{"hush", base64.StdEncoding.EncodeToString(private.Bytes)[:40], strings.Split(string(key), "\n")[1]} {
		if strings.Contains(raw, secret) {
			t.Errorf("it says %q", secret)
		}
	}
	s.SetSecrets(map[string]certs.Secret{"ns/a": {"tls.crt": cert, "tls.key": []byte("hush"), "token": []byte("hush\n\nhush")}})
	if m, v, raw = look(); !m.Loaded || m.Error == "" || m.Subject != "CN=one" || v.Loaded || v.Error == "" || strings.Contains(raw, "hush") {
		t.Errorf("what is there is broken: %+v %+v", m, v)
	}
}

// TestWithin: as it is written, and not by a prefix of the name.
func TestWithin(t *testing.T) {
	dirs := []string{"/etc/keys/", "/run/tokens"}
	for file, want := range map[string]bool{
		"/etc/keys/a": true, "/run/tokens/x/y": true, "/etc/keys": true, "/etc/keys/../shadow": false, "/etc/keysx/a": false, "/etc/shadow": false,
		"etc/keys/a": false, "": false,
	} {
		if got := certs.Within(dirs, file); got != want {
			t.Errorf("%s: %t", file, got)
		}
	}
	if certs.Within(nil, "/etc/keys/a") {
		t.Error("no directory has a file")
	}
}
