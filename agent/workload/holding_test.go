// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// holds says whether the kernel was told to hold new containers in a cgroup.
func (r *rig) holds(id uint64) bool { return r.d.table[id].Holds }

// TestHolds: new containers are held in what is captured, in slices that have a workload, and
// where containers are, but neither in containers nor among pods; nobody is held when no
// Workload selects containers.
func TestHolds(t *testing.T) {
	r, c := newContainerRig(t, Options{Mode: policy.Enforce, Holds: true})
	all := []*policy.Workload{selecting("shop", "web", policy.ContainerSelector{Name: "web"})}
	for name, path := range map[string]string{"slice": "shop.slice", "service": "system.slice/x.service", "pods": "kubepods.slice", "pod": "kubepods.slice/kubepods-podx.slice", "own": "parent.slice/docker-*.scope", "place": "libpod_parent"} {
		all = append(all, &policy.Workload{Identity: policy.Identity{Name: name, Namespace: "a"}, Cgroups: []string{path}})
	}
	id := func(path string) uint64 { return r.mkdir(strings.ReplaceAll(path, "ID", containerID("a"))) }
	want := map[uint64]bool{
		id(""):                                   true,
		id("shop.slice"):                         true,
		id("other"):                              true, // a container is in it
		id("other/ID"):                           false,
		id("system.slice/x.service"):             false,
		id("kubepods.slice"):                     false,
		id("libpod_parent"):                      true,
		id("docker"):                             false, // locked as a whole
		id("parent.slice/docker-ID.scope"):       false,
		id("system.slice/docker-ID.scope"):       false,
		id("kubepods.slice/kubepods-podx.slice"): false,
	}
	r.bind(snapshotOf(t, all...))
	for id, want := range want {
		if r.holds(id) != want {
			t.Errorf("%+v: want it to hold: %t", r.d.table[id], want)
		}
	}
	if as := r.d.table[loader.HeldKey]; as.Policy != policy.UnknownWorkload || as.Mode != policy.Enforce || r.NameOf(as.ID) != UnknownContainer {
		t.Errorf("what is held: %+v", as)
	}
	// Known, and nothing selects it: it is told apart from one that nobody has seen.
	c.is[containerID("a")] = container.Description{Name: "other"}
	r.bind(nil)
	if as := r.d.table[id("other/ID")]; as.Policy == policy.UnknownWorkload || as.ID != Node || as.Holds {
		t.Errorf("known: %+v", as)
	}
	r.bind(snapshotOf(t, all[1:]...))
	for id, as := range r.d.table {
		if as.Holds || id == loader.HeldKey {
			t.Errorf("nothing selects containers: %+v", as)
		}
	}
}

// TestHoldsByName: what is captured by name holds new containers from its first moment on.
func TestHoldsByName(t *testing.T) {
	r, _ := newContainerRig(t, Options{Mode: policy.Enforce, Holds: true})
	top := r.mkdir("a.slice")
	r.capture.where = place{named: []string{filepath.Join(r.root, "a.slice/a-b.slice")}, at: filepath.Join(r.root, "a.slice"), byName: true}
	r.bind(snapshotOf(t, selecting("shop", "web", policy.ContainerSelector{Name: "web"})))
	if len(r.d.named) != 1 || !r.d.named[0].As.Holds || r.holds(top) {
		t.Errorf("told of names: %+v, of what is around: %t", r.d.named, r.holds(top))
	}
}

// TestHoldsNothing: where the kernel tells no names the gap is said once.
func TestHoldsNothing(t *testing.T) {
	r, _ := newContainerRig(t, Options{Mode: policy.Enforce})
	top := r.mkdir("")
	for range 2 {
		r.bind(snapshotOf(t, selecting("shop", "web", policy.ContainerSelector{Name: "web"})))
	}
	if r.holds(top) || strings.Count(r.said.String(), "does not tell the names") != 1 {
		t.Errorf("holds: %t, said %s", r.holds(top), r.said)
	}
}
