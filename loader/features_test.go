// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/kernel"
)

// TestFeatures: the probes say yes to everything on a kernel that loads the
// programs, since these use nearly all of it; the other tests use the rest.
func TestFeatures(t *testing.T) {
	testenv.RequireBPF(t)
	dp, err := loader.Open(loader.Options{PinDir: testenv.BPFFS(t)})
	must(t, err)
	must(t, dp.Close())
	features := kernel.Features()
	if len(features) == 0 {
		t.Error("nothing was probed")
	}
	for name, got := range features {
		t.Logf("%s: %s", name, got)
		if got != "yes" {
			t.Errorf("%s: %s, but egressd works here", name, got)
		}
	}
}
