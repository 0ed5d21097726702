// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"testing"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/peek"
)

// TestHostileSpellings: as the name of a ClientHello, each is refused or read as the name that it stands for.
func TestHostileSpellings(t *testing.T) {
	for _, s := range hostile.Spellings() {
		if s.Text == "" && s.Wire != nil {
			continue // it has no text
		}
		name, err := sniName(peek.Hello{SNI: s.Text, HasSNI: true})
		if name != s.Name || (err == nil) != (s.Name != "") {
			t.Errorf("%s: SNI %q is read as %q, %v; want %q", s.What, s.Text, name, err, s.Name)
		}
	}
}
