// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/loader/predecessor"
)

// TestExempt: what an earlier run left at work lets a cgroup go, whichever
// tables its programs go by, and nobody else.
func TestExempt(t *testing.T) {
	r := newBareRig(t)
	if p, err := predecessor.Read(r.pins); err != nil || p.AtWork() {
		t.Errorf("nothing is pinned: %+v, %v", p, err)
	}
	r.open()
	own, err := r.cg.Child("own")
	must(t, err)
	beside, err := r.cg.Child("beside")
	must(t, err)
	next, err := r.cg.Child("next")
	must(t, err)
	denied := func(when string, cg *world.Cgroup, want string) {
		t.Helper()
		for _, addr := range []string{world.StrangerV4, world.StrangerV6} {
			if got := r.runIn(r.world.Node, cg, "tcp", hostport(addr, 443)); got.Errno != want {
				t.Errorf("%s: %s: %+v, want errno %q", when, addr, got, want)
			}
		}
	}
	exempt := func(when string) {
		t.Helper()
		denied(when+", before", own, "ECONNREFUSED")
		p, err := predecessor.Read(r.pins)
		must(t, err)
		captured, err := r.cg.ID()
		must(t, err)
		id, err := own.ID()
		must(t, err)
		if yes, known := p.Workload(captured); !yes || !known || !p.AtWork() {
			t.Errorf("%s: captured %v, known %v", when, yes, known)
		}
		if _, known := p.Workload(id); known {
			t.Errorf("%s: the own cgroup is known", when)
		}
		must(t, p.Exempt(id, 2, 0))
		p, err = predecessor.Read(r.pins)
		must(t, err)
		if yes, known := p.Workload(id); yes || !known {
			t.Errorf("%s: the own cgroup: captured %v, known %v", when, yes, known)
		}
		denied(when, own, "")
		denied(when+", the neighbour", beside, "ECONNREFUSED")
		// The next start has another cgroup.
		id, err = next.ID()
		must(t, err)
		must(t, p.Exempt(id, 2, 0))
		denied(when+", next", next, "")
		denied(when+", the cgroup before", own, "ECONNREFUSED")
	}
	must(t, r.dp.Close())
	exempt("killed")

	// The tables are new and all programs replaced, but the pinned tables are
	// still the older ones.
	pinned := testenv.PinnedMap(t, filepath.Join(r.pins, "egd_workloads"))
	r.load(func(o loader.Options) (*loader.Datapath, error) {
		o.Renew = true
		return loader.Open(o)
	})
	must(t, r.dp.SetReady(true))
	must(t, r.dp.AttachSome(r.cg.Path(), r.dp.Links(), 0))
	must(t, r.dp.Close())
	if now := testenv.PinnedMap(t, filepath.Join(r.pins, "egd_workloads")); now != pinned {
		t.Fatalf("the pinned table is %d and was %d", now, pinned)
	}
	exempt("killed while it replaced programs")
	_, err = bpffs.Unload(r.pins)
	must(t, err)
}
