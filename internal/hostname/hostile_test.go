// SPDX-License-Identifier: Apache-2.0

package hostname

import (
	"testing"

	"github.com/egressd/egressd/internal/hostile"
)

// TestHostileSpellings: each is refused or read as the name that it stands for.
func TestHostileSpellings(t *testing.T) {
	for _, s := range hostile.Spellings() {
		if s.Text == "" && s.Wire != nil {
			continue // it has no text
		}
		got, err := Normalize(s.Text)
		if got != s.Name || (err == nil) != (s.Name != "") {
			t.Errorf("%s: %q is read as %q, %v; want %q", s.What, s.Text, got, err, s.Name)
		}
		// A pattern is a name, or a wildcard that stands for others.
		p, err := ParsePattern(s.Text)
		if err == nil && !p.IsWildcard() && string(p) != s.Name {
			t.Errorf("%s: %q is read as the pattern %q; want %q", s.What, s.Text, p, s.Name)
		}
	}
}
