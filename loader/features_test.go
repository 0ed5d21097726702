// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader"
)

// TestFeatures: the probes say yes to everything on a kernel that loads the
// programs, since these use all of it. A probe that says no there is wrong.
func TestFeatures(t *testing.T) {
	testenv.RequireBPF(t)
	dp, err := loader.Open(loader.Options{PinDir: testenv.BPFFS(t)})
	must(t, err)
	must(t, dp.Close())
	features := loader.Features()
	if len(features) == 0 {
		t.Error("nothing was probed")
	}
	for name, got := range features {
		t.Logf("%s: %s", name, got)
		if got != "yes" {
			t.Errorf("%s: %s, and the programs that use it were loaded", name, got)
		}
	}
}
