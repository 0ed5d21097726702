// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"net/url"
	"strings"
)

// clientCert is a client's certificate in the form of Envoy's
// X-Forwarded-Client-Cert, with the parts that Istio's gateways set
// (pilot/pkg/networking/core, SetCurrentClientCertDetails).
func clientCert(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	out := []string{
		"Hash=" + hex.EncodeToString(sum[:]),
		"Cert=" + quote(strings.ReplaceAll(url.QueryEscape(text), "+", "%20")),
		"Subject=" + quote(c.Subject.String()),
	}
	for _, u := range c.URIs {
		out = append(out, "URI="+escaped(u.String()))
	}
	for _, name := range c.DNSNames {
		out = append(out, "DNS="+escaped(name))
	}
	return strings.Join(out, ";")
}

// escaped keeps a name of a certificate, which whoever signed it let have any bytes,
// from being another element of the header, or another line.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`",;=\`, c) >= 0 {
			b.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
