// SPDX-License-Identifier: Apache-2.0

package workload

import "testing"

func TestParseNodeServices(t *testing.T) {
	for _, c := range []struct {
		in    string
		whole bool
		n     int
		ok    bool
	}{
		{"auto", true, len(nodeServices), true},
		{"auto", false, 0, true}, // a part of the node is captured on purpose
		{"none", true, 0, true},
		{"system.slice/a.service, b.slice/*", false, 2, true},
		{"", true, 0, false},
		{"**", true, 0, false}, // everything
		{"a,", true, 0, false},
		{"/system.slice/a.service", true, 0, false},
	} {
		got, err := ParseNodeServices(c.in, c.whole)
		if len(got) != c.n || (err == nil) != c.ok {
			t.Errorf("%q, whole %t: %v, %v", c.in, c.whole, got, err)
		}
	}
}
