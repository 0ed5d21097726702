// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"errors"
	"maps"
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// TestWorkloadsFull: where there is no room for all cgroups the ones with the
// lowest numbers and the oldest have it, what is left is said, and has room when
// others go; who is left is under the policy around it.
func TestWorkloadsFull(t *testing.T) {
	r := newRig(t)
	around, err := r.cg.ID()
	must(t, err)
	cg, err := r.cg.Child("late")
	must(t, err)
	t.Cleanup(func() { must(t, cg.Close()) })
	late, err := cg.ID()
	must(t, err)
	r.apply([]policy.Opening{
		{Prefix: netip.MustParsePrefix(world.StrangerV4 + "/32"), Port: 443, Transport: policy.TCP, Verdict: policy.Direct},
		{Prefix: netip.MustParsePrefix(world.StrangerV6 + "/128"), Port: 443, Transport: policy.TCP, Verdict: policy.Direct},
	})
	fill := func() loader.Fill { return r.dp.Fills()["egd_workloads"] }
	room := fill().Max
	if room < 20_000 {
		t.Fatalf("room for %d cgroups", room)
	}
	// Nobody's cgroups, which come after the one around them.
	all := map[uint64]loader.WorkloadState{around: {ID: 1, Policy: testPolicy}}
	const nobodys = 1 << 60
	for i := range room {
		all[nobodys+uint64(i)] = loader.WorkloadState{ID: 5, Policy: testPolicy}
	}
	all[late] = loader.WorkloadState{ID: 6, Policy: testPolicy + 1} // the highest number
	const left = 2
	var full *loader.WorkloadsFullError
	for range 2 { // and again, with nothing new
		if err := r.dp.SetWorkloads(all); !errors.As(err, &full) || full.Left != left || full.Max != room {
			t.Fatalf("%v, want %d of %d left", err, left, room)
		}
	}
	if f := fill(); f.Entries != room {
		t.Errorf("%d entries", f.Entries)
	}
	dials := func(when, errno string) {
		t.Helper()
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if got := r.runIn(r.world.Node, cg, "tcp", hostport(addr, 443)); got.Errno != errno {
				t.Errorf("%s: %s: %+v, want %q", when, addr, got, errno)
			}
		}
	}
	dials("left, under the policy around it", "")
	// What has a place changes although there is no other.
	all[around] = loader.WorkloadState{ID: 1, Policy: testPolicy + 1}
	if err := r.dp.SetWorkloads(all); !errors.As(err, &full) || full.Left != left {
		t.Fatal(err)
	}
	dials("left, under the new policy around it", "ECONNREFUSED")
	all[around] = loader.WorkloadState{ID: 1, Policy: testPolicy}
	maps.DeleteFunc(all, func(id uint64, w loader.WorkloadState) bool { return id >= nobodys+10 })
	must(t, r.dp.SetWorkloads(all))
	if f := fill(); f.Entries != len(all) || len(all) != 12 {
		t.Errorf("%d entries of %d", f.Entries, len(all))
	}
	dials("with a policy of its own", "ECONNREFUSED")
}
