// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kinds of what is kept.
const (
	KindCertificate = "certificate" // a pair, trusted certificates, or both
	KindCredential  = "credential"  // a token
)

// Kept is what there is to say about what is in use. Nothing of a key or a token is in
// it, not even how long it is.
type Kept struct {
	From string `json:"from"`
	Kind string `json:"kind"`
	// Loaded says whether there is something to use, which may be older than an Error.
	Loaded bool `json:"loaded"`
	// Subject to Expires are of the certificate of a pair: Names are those that it is
	// for, Fingerprint is SHA-256 in hexadecimal as openssl prints it without colons, and
	// Expires is when the first of its chain does.
	Subject     string    `json:"subject,omitempty"`
	Names       []string  `json:"names,omitempty"`
	Issuer      string    `json:"issuer,omitempty"`
	Serial      string    `json:"serial,omitempty"`
	Fingerprint string    `json:"sha256,omitempty"`
	Begins      time.Time `json:"begins,omitzero"`
	Expires     time.Time `json:"expires,omitzero"`
	// CAs are the certificates that are trusted.
	CAs []KeptCA `json:"cas,omitempty"`
	// Error is why there is nothing newer, or nothing.
	Error string `json:"error,omitempty"`
}

// KeptCA is a certificate that is trusted.
type KeptCA struct {
	Subject     string    `json:"subject"`
	Fingerprint string    `json:"sha256"`
	Expires     time.Time `json:"expires"`
}

// Status lists all that was asked for, by where it is. What nobody has asked for in
// Options.Keep is not there.
func (s *Stock) Status() []Kept {
	s.mu.Lock()
	material, values := maps.Clone(s.material), maps.Clone(s.values)
	s.mu.Unlock()
	out := make([]Kept, 0, len(material)+len(values))
	for r, e := range material {
		if now := e.now.Load(); now != nil {
			out = append(out, now.kept(r))
		}
	}
	for r, e := range values {
		if now := e.now.Load(); now != nil {
			out = append(out, Kept{From: r.String(), Kind: KindCredential, Loaded: now.value != nil, Error: text(now.err)})
		}
	}
	slices.SortFunc(out, func(a, b Kept) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.Kind, b.Kind)) })
	return out
}

func (now *state) kept(r Where) Kept {
	k := Kept{From: r.String(), Kind: KindCertificate, Loaded: now.material != nil, Error: text(now.err)}
	m := now.material
	if m == nil {
		return k
	}
	for _, c := range m.CAs {
		k.CAs = append(k.CAs, KeptCA{Subject: c.Subject.String(), Fingerprint: fingerprint(c), Expires: c.NotAfter})
	}
	if m.Pair == nil {
		return k
	}
	leaf := m.Pair.Leaf
	k.Subject, k.Issuer, k.Serial = leaf.Subject.String(), leaf.Issuer.String(), fmt.Sprintf("%x", leaf.SerialNumber)
	k.Names, k.Fingerprint, k.Begins, k.Expires = names(leaf), fingerprint(leaf), leaf.NotBefore, m.Expires()
	return k
}

// names are what a certificate is for.
func names(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	for _, u := range c.URIs {
		out = append(out, u.String())
	}
	return out
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
