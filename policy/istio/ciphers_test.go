// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"crypto/tls"
	"slices"
	"strings"
	"testing"
)

// TestCiphers: names and expressions offer what they say, and nothing where what is left
// out is not known.
func TestCiphers(t *testing.T) {
	const one, two = "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"
	usual := strings.Join(cipherSuites[:usualCiphers], " ")
	without := strings.Join(slices.DeleteFunc(slices.Clone(cipherSuites[:usualCiphers]), func(n string) bool { return n == one }), " ")
	for _, c := range []struct{ list, offered, unread string }{
		{one, one, ""},
		{"AES128-SHA " + one, "AES128-SHA " + one, ""},
		{"ALL", usual, ""},
		{"ALL " + one, usual, ""},
		{"ALL -" + one, without, ""},
		{"!" + one + " ALL", without, ""},
		{"-" + one + " ALL", usual, ""},
		{"-" + one, "", ""},
		{one + " !aNULL !MD5", one, ""},
		{"ALL +SHA1", usual, ""},
		{"ALL !SHA1", "", "!SHA1"},
		{"ALL @STRENGTH", usual, "@STRENGTH"},
		{"[" + one + "|" + two + "]", one + " " + two, ""},
		{"[NO|SUCH]", "", "NO SUCH"},
	} {
		offered, unread := evaluateCiphers(strings.Fields(c.list))
		if strings.Join(offered, " ") != c.offered || strings.Join(unread, " ") != c.unread {
			t.Errorf("%s: %v, unread %v; want %s, unread %s", c.list, offered, unread, c.offered, c.unread)
		}
	}
}

// TestUsualCiphers: ALL is what crypto/tls thinks well of.
func TestUsualCiphers(t *testing.T) {
	n := 0
	for _, s := range tls.CipherSuites() {
		if slices.Contains(s.SupportedVersions, tls.VersionTLS12) {
			n++
		}
	}
	if n != usualCiphers {
		t.Errorf("crypto/tls has %d suites below TLS 1.3, and ALL is %d", n, usualCiphers)
	}
}
