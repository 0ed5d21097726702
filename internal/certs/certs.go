// SPDX-License-Identifier: Apache-2.0

// Package certs keeps what certificates, keys, trusted certificates and tokens
// are now: of files and of Kubernetes Secrets, read again when they change. What
// cannot be used does not replace what could: it is an error beside it.
//
// No error and no status of this package has anything of a key or a token in it.
package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Where names material. It is comparable, and equal ones share what is kept. Either
// Secret is set, or some of the files are.
type Where struct {
	// Certificate and Key are files with a PEM chain, the leaf first, and its key;
	// CA and CRL have trusted certificates and lists of revoked ones.
	Certificate, Key, CA, CRL string
	// Secret is a Kubernetes Secret, NAMESPACE/NAME, with Istio's keys: tls.crt and
	// tls.key, or cert and key; ca.crt or cacert, else in the Secret NAME-cacert;
	// crl or ca.crl.
	Secret string
}

// String says where the material is, for people.
func (r Where) String() string {
	if r.Secret != "" {
		return "Secret " + r.Secret
	}
	var s string
	for _, f := range []string{r.Certificate, r.Key, r.CA, r.CRL} {
		if f != "" && s != "" {
			s += ", "
		}
		s += f
	}
	return s
}

// PEM is material as it is written.
type PEM struct{ Certificate, Key, CA, CRL []byte }

func (p PEM) sum() [sha256.Size]byte {
	h := sha256.New()
	for _, part := range [][]byte{p.Certificate, p.Key, p.CA, p.CRL} {
		fmt.Fprintf(h, "%d\n", len(part)) // a hash takes everything
		h.Write(part)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Material is what was read at one time. It is not changed.
type Material struct {
	// Pair is a certificate chain and its key, with Leaf set; nil: there is none.
	Pair *tls.Certificate
	// CA are trusted certificates; nil: none are named.
	CA *x509.CertPool
	// CAs are the same one by one.
	CAs []*x509.Certificate
	// CRLs are lists of revoked certificates. Whose they are is not checked.
	CRLs []*x509.RevocationList
	// Sum is equal for equal material.
	Sum [sha256.Size]byte
}

// Expires is when the first of the pair's certificates expires; zero: there is no pair.
func (m *Material) Expires() (first time.Time) {
	if m.Pair == nil {
		return first
	}
	for _, der := range m.Pair.Certificate {
		c, err := x509.ParseCertificate(der)
		if err == nil && (first.IsZero() || c.NotAfter.Before(first)) {
			first = c.NotAfter
		}
	}
	return first
}

// Parse reads material. A part that is there and has nothing of its kind is an error.
func Parse(p PEM) (*Material, error) {
	m := &Material{Sum: p.sum()}
	switch {
	case p.Certificate == nil && p.Key == nil:
	case p.Certificate == nil:
		return nil, errors.New("there is a private key, and no certificate for it")
	case p.Key == nil:
		return nil, errors.New("there is a certificate, and no private key for it")
	default:
		pair, err := tls.X509KeyPair(p.Certificate, p.Key)
		if err != nil {
			return nil, fmt.Errorf("the certificate and its key cannot be used: %w", err)
		}
		if pair.Leaf == nil {
			if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
				return nil, fmt.Errorf("the certificate cannot be read: %w", err)
			}
		}
		m.Pair = &pair
	}
	var err error
	if p.CA != nil {
		if m.CAs, err = certificates(p.CA); err != nil {
			return nil, err
		}
		m.CA = x509.NewCertPool()
		for _, c := range m.CAs {
			m.CA.AddCert(c)
		}
	}
	if p.CRL != nil {
		if m.CRLs, err = lists(p.CRL); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func certificates(data []byte) (out []*x509.Certificate, err error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("a trusted certificate cannot be read: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no trusted certificate in PEM form")
	}
	return out, nil
}

func lists(data []byte) (out []*x509.RevocationList, err error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New("the list of revoked certificates is empty")
	}
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("the list of revoked certificates cannot be read: %w", err)
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no list of revoked certificates in PEM form")
	}
	return out, nil
}
