// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// cipherSuites are those that Istio passes on
// (istio.io/istio pkg/config/security ValidCipherSuites). The first usualCiphers have
// forward secrecy, and are those that crypto/tls offers by itself.
var cipherSuites = []string{
	"ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384",
	"ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305",
	"ECDHE-ECDSA-AES128-SHA", "ECDHE-RSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA", "ECDHE-RSA-AES256-SHA",
	"AES128-GCM-SHA256", "AES256-GCM-SHA384", "AES128-SHA", "AES256-SHA", "DES-CBC3-SHA",
}

const usualCiphers = 10

// neverCiphers are OpenSSL's words for what is not among cipherSuites: that they are left
// out says nothing.
var neverCiphers = []string{"aNULL", "eNULL", "NULL", "ADH", "DES", "DSS", "EXPORT", "LOW", "MD5", "PSK", "RC4", "SRP"}

// ciphers reads the suites below TLS 1.3 that a server offers. What is not known is left
// out, as in Istio. But who named suites wanted fewer than the usual ones: where nothing is
// left, nothing is offered, and Istio would offer those.
func (s *serverTLS) ciphers() {
	var invalid, duplicate, valid []string
	for _, c := range s.in.CipherSuites {
		switch {
		case c == "": // asks for nothing
		case !validCipher(c):
			invalid = append(invalid, c)
		case slices.Contains(valid, c):
			duplicate = append(duplicate, c)
		default:
			valid = append(valid, c)
		}
	}
	at := s.at.At("cipherSuites")
	if len(invalid) > 0 {
		s.Warnf(at, "ignoring invalid cipher suites: %v", slices.Compact(slices.Sorted(slices.Values(invalid))))
	}
	if len(duplicate) > 0 {
		s.Warnf(at, "ignoring duplicate cipher suites: %v", slices.Compact(slices.Sorted(slices.Values(duplicate))))
	}
	if len(invalid)+len(valid) == 0 {
		return
	}
	offered, unread := evaluateCiphers(valid)
	if len(unread) > 0 {
		s.Warnf(at, "ignoring terms of cipher suites that egressd does not read: %v; it reads names, ALL, [NAME|NAME], -NAME and !NAME", slices.Compact(slices.Sorted(slices.Values(unread))))
	}
	if len(offered) == 0 {
		s.Warnf(at, "no cipher suite is left of cipherSuites: clients can only connect by TLS 1.3, whose suites cannot be chosen. Write names as in ECDHE-RSA-AES128-GCM-SHA256, or leave out cipherSuites")
		offered = []string{policy.NoCipherSuite}
	}
	s.out.CipherSuites = offered
}

// validCipher lets the names pass that Istio knows, and expressions with the
// operators of BoringSSL.
func validCipher(c string) bool {
	if c == "ALL" || slices.Contains(cipherSuites, c) {
		return true
	}
	first := rune(c[0])
	return !strings.ContainsRune("0123456789", first) && (first|0x20 < 'a' || first|0x20 > 'z')
}

// evaluateCiphers is what a list of names and of BoringSSL's expressions offers (ssl.h,
// "Cipher suite configuration"), and the terms of it that are not read. What such a term
// would leave out nobody knows here, so nothing is offered then.
func evaluateCiphers(list []string) (offered, unread []string) {
	banned := map[string]bool{}
	unknown := false
	add := func(names ...string) {
		for _, n := range names {
			if !banned[n] && !slices.Contains(offered, n) {
				offered = append(offered, n)
			}
		}
	}
	for term := range strings.FieldsFuncSeq(strings.Join(list, ":"), func(r rune) bool { return strings.ContainsRune("[]|:", r) }) {
		name := strings.TrimLeft(term, "-!")
		taken := name != term
		switch {
		case term[0] == '+': // another place among the others
		case taken && slices.Contains(cipherSuites, name):
			offered = slices.DeleteFunc(offered, func(n string) bool { return n == name })
			banned[name] = banned[name] || term[0] == '!'
		case taken && slices.Contains(neverCiphers, name):
		case term == "ALL":
			add(cipherSuites[:usualCiphers]...)
		case slices.Contains(cipherSuites, term):
			add(term)
		default:
			unread = append(unread, term)
			unknown = unknown || taken
		}
	}
	if unknown {
		return nil, unread
	}
	return offered, unread
}
