// SPDX-License-Identifier: Apache-2.0

package peek

import (
	"testing"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/hostname"
)

// TestHostileSpellings: as server_name each is refused, here or by who
// normalizes it, or is the name that it stands for. The dot of the root, which RFC
// 6066 has no place for, is left out: programs send it all the same.
func TestHostileSpellings(t *testing.T) {
	read := 0
	for _, s := range hostile.Spellings() {
		h, st := ClientHello(handmade(sni(s.Text)))
		if st != OK {
			continue
		}
		if h.SNI != s.Text && h.SNI+"." != s.Text {
			t.Errorf("%s: %q is read as %q", s.What, s.Text, h.SNI)
		}
		got, err := hostname.Normalize(h.SNI)
		if err != nil {
			continue
		}
		read++
		if got != s.Name {
			t.Errorf("%s: %q is taken for %q, want %q", s.What, s.Text, got, s.Name)
		}
		// crypto/tls, as a server, reads no other name.
		if theirs, err := serverView(handmade(sni(s.Text))); err == nil && theirs != nil && theirs.ServerName != h.SNI {
			t.Errorf("%s: crypto/tls reads %q", s.What, theirs.ServerName)
		}
	}
	if read < 5 {
		t.Errorf("%d spellings were read as names: the test reads none", read)
	}
}
