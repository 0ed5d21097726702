// SPDX-License-Identifier: Apache-2.0

package tlsserver

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/certs"
	"github.com/egressd/egressd/policy"
)

// clientError is why a client certificate is not accepted.
type clientError struct{ text string }

func (e *clientError) Error() string { return e.text }

// clients verifies what a server asks of client certificates beside their chain.
type clients struct {
	settings *policy.ServerTLS
	ca       *certs.Material
	now      func() time.Time
}

func (v *clients) verify(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil // whether there must be one, crypto/tls has seen to
	}
	leaf := s.PeerCertificates[0]
	switch {
	case !v.named(leaf):
		return &clientError{"no name of the client's certificate is one of subjectAltNames"}
	case !v.pinned(leaf):
		return &clientError{"the client's certificate is none of verifyCertificateSpki and verifyCertificateHash"}
	}
	if len(v.ca.CRLs) == 0 {
		return nil
	}
	err := error(&clientError{"the client's certificate has no verified chain"})
	for _, chain := range s.VerifiedChains {
		if err = v.current(chain); err == nil {
			return nil
		}
	}
	return err
}

// named says whether a certificate has one of the subjectAltNames, as Istio has
// them: equal, of any kind.
func (v *clients) named(c *x509.Certificate) bool {
	want := v.settings.SubjectAltNames
	if len(want) == 0 {
		return true
	}
	have := slices.Concat(c.DNSNames, c.EmailAddresses)
	for _, u := range c.URIs {
		have = append(have, u.String())
	}
	for _, ip := range c.IPAddresses {
		have = append(have, ip.String())
	}
	return slices.ContainsFunc(have, func(name string) bool { return slices.Contains(want, name) })
}

// pinned says whether a certificate is one of those that are named by a hash: in
// base64 of its public key, or in hexadecimal of the whole, with colons or without.
func (v *clients) pinned(c *x509.Certificate) bool {
	if len(v.settings.VerifySPKI)+len(v.settings.VerifyHash) == 0 {
		return true
	}
	spki, whole := sha256.Sum256(c.RawSubjectPublicKeyInfo), sha256.Sum256(c.Raw)
	return slices.Contains(v.settings.VerifySPKI, base64.StdEncoding.EncodeToString(spki[:])) ||
		slices.ContainsFunc(v.settings.VerifyHash, func(h string) bool {
			sum, err := hex.DecodeString(strings.ReplaceAll(h, ":", ""))
			return err == nil && bytes.Equal(sum, whole[:])
		})
}

// current says why a chain, the leaf first, is not current: as in Envoy, each issuer
// in it must have a list that has not run out, and that does not name the certificate.
func (v *clients) current(chain []*x509.Certificate) error {
	for i := range len(chain) - 1 {
		if err := v.revoked(chain[i], chain[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (v *clients) revoked(c, issuer *x509.Certificate) error {
	var newest *x509.RevocationList
	for _, l := range v.ca.CRLs {
		if bytes.Equal(l.RawIssuer, issuer.RawSubject) && l.CheckSignatureFrom(issuer) == nil && (newest == nil || l.ThisUpdate.After(newest.ThisUpdate)) {
			newest = l
		}
	}
	switch {
	case newest == nil:
		return &clientError{fmt.Sprintf("there is no list of revoked certificates of %s", issuer.Subject)}
	case !newest.NextUpdate.IsZero() && v.now().After(newest.NextUpdate):
		return &clientError{fmt.Sprintf("the list of revoked certificates of %s has run out at %s", issuer.Subject, newest.NextUpdate.UTC().Format(time.RFC3339))}
	}
	for _, e := range newest.RevokedCertificateEntries {
		if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
			return &clientError{"the client's certificate, or one that it is issued by, is revoked"}
		}
	}
	return nil
}

// Reason names why a handshake failed.
func Reason(err error) policy.Reason {
	var chain *tls.CertificateVerificationError
	var client *clientError
	switch {
	case errors.As(err, &chain), errors.As(err, &client), strings.Contains(err.Error(), "client didn't provide a certificate"):
		return policy.ReasonClientCertificate
	case errors.Is(err, os.ErrDeadlineExceeded):
		return policy.ReasonPeekTimeout
	}
	return policy.ReasonHandshake
}

// Principal is the SPIFFE id of a verified client certificate, without its scheme;
// "": it has none.
func Principal(c *x509.Certificate) string {
	for _, u := range c.URIs {
		if u.Scheme == "spiffe" {
			return u.Host + u.Path
		}
	}
	return ""
}
