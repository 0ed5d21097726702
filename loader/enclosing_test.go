// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"testing"

	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/foreign"
)

// TestEnclosing: the nearest cgroup under a policy of its own is the captured
// one, or a workload in it.
func TestEnclosing(t *testing.T) {
	r := newRig(t)
	inner, err := r.cg.Child("inner")
	must(t, err)
	defer inner.Close()
	leaf, err := inner.Child("leaf")
	must(t, err)
	defer leaf.Close()
	at := func(want string) {
		t.Helper()
		if got, err := foreign.Enclosing(leaf.Path()); got != want || err != nil {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	at(r.cg.Path())
	id, err := inner.ID()
	must(t, err)
	must(t, r.dp.SetWorkload(id, loader.WorkloadState{ID: 2, Policy: testPolicy}))
	at(inner.Path())
	must(t, r.dp.Unload())
	must(t, r.dp.Close())
	at("")
}
