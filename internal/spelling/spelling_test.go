// SPDX-License-Identifier: Apache-2.0

package spelling

import "testing"

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "host", 4}, {"hosts", "hosts", 0}, {"host", "hosts", 1}, {"hosts", "host", 1},
		{"hots", "hosts", 1}, {"hsots", "hosts", 1}, {"floes", "flows", 1}, {"kitten", "sitting", 3},
	} {
		if got := Distance(c.a, c.b); got != c.want {
			t.Errorf("%q, %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
