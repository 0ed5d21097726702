// SPDX-License-Identifier: Apache-2.0

package hostile

import "testing"

// TestSpellings: the list is what its readers' tests take it for.
func TestSpellings(t *testing.T) {
	seen := map[string]bool{}
	good, wires := 0, 0
	for _, s := range Spellings() {
		if s.What == "" || seen[s.What] {
			t.Errorf("%q is there twice, or does not say what it is", s.What)
		}
		seen[s.What] = true
		if s.Name != "" {
			good++
			if s.Text == "" || s.Wire == nil {
				t.Errorf("%s: a name has a text and a form in DNS", s.What)
			}
		}
		if s.Wire != nil {
			wires++
		}
	}
	if good < 5 || wires < 40 {
		t.Errorf("%d names, %d with a form in DNS", good, wires)
	}
}
