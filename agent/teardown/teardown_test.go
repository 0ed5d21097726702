// SPDX-License-Identifier: Apache-2.0

package teardown

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestOrder: traffic is opened first, and what programs lead to goes when they have
// gone and nobody uses it; what fails of the rest keeps nothing else.
func TestOrder(t *testing.T) {
	for _, c := range []struct {
		name, fails, left, want string
	}{
		{"all", "", "", "detach ended gates state cgroups"},
		{"programs stay", "detach", "", "detach"},
		{"the daemon does not end", "ended", "", "detach ended"},
		{"gates stay", "gates", "", "detach ended gates state cgroups"},
		{"cgroups stay", "cgroups", "", "detach ended gates state cgroups"},
		{"one without gates that waits for nobody", "", "ended gates", "detach state cgroups"},
	} {
		var did []string
		step := func(name string) func() error {
			if slices.Contains(strings.Fields(c.left), name) {
				return nil
			}
			return func() error {
				did = append(did, name)
				if name == c.fails {
					return errors.New(name + " failed")
				}
				return nil
			}
		}
		err := Teardown{
			Cgroups: step("cgroups"), State: step("state"), Gates: step("gates"), Ended: step("ended"), Detach: step("detach"),
		}.Run()
		if got := strings.Join(did, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if (err == nil) != (c.fails == "") || err != nil && err.Error() != c.fails+" failed" {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
