// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"testing"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/peek"
)

// TestHostileSpellings: as Host or :authority, and as the name of a
// ClientHello, each is refused or read as the name that it stands for.
func TestHostileSpellings(t *testing.T) {
	for _, s := range hostile.Spellings() {
		if s.Text == "" && s.Wire != nil {
			continue // it has no text
		}
		host, port, err := parseAuthority(s.Text)
		if host != s.Name || port != 0 || (err == nil) != (s.Name != "") {
			t.Errorf("%s: Host %q is read as %q, %d, %v; want %q", s.What, s.Text, host, port, err, s.Name)
		}
		name, err := sniName(peek.Hello{SNI: s.Text, HasSNI: true})
		if name != s.Name || (err == nil) != (s.Name != "") {
			t.Errorf("%s: SNI %q is read as %q, %v; want %q", s.What, s.Text, name, err, s.Name)
		}
	}
}
