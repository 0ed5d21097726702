// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader/bpffs"
)

// TestUnloadWhileOpen: Unload frees the workload although somebody has the links
// open, and several may do it at once.
func TestUnloadWhileOpen(t *testing.T) {
	r := newRig(t)
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if got := r.run(true, "tcp", hostport(addr, 443)); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s, attached: %+v", addr, got)
		}
	}
	id, err := r.cg.ID()
	must(t, err)
	if at, err := bpffs.AttachedTo(r.pins); err != nil || !slices.Equal(at, []uint64{id}) || cgroup.PathOf(id) != r.cg.Path() {
		t.Errorf("attached to %v (%v), want %d", at, err, id)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			if _, err := bpffs.Unload(r.pins); err != nil {
				t.Errorf("unload: %v", err)
			}
		})
	}
	all.Wait()
	testenv.NoPins(t, r.pins)
	for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
		if got := r.run(true, "tcp", hostport(addr, 443)); got.Errno != "" {
			t.Errorf("%s, unloaded: %+v", addr, got)
		}
	}
	if got := r.dp.Attached(); len(got) > 0 {
		t.Errorf("the one who has the links sees %v attached", got)
	}
	if at, err := bpffs.AttachedTo(filepath.Join(r.pins, "absent")); err != nil || at != nil {
		t.Errorf("nothing is pinned: %v, %v", at, err)
	}
}
