// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/kernel"
	"github.com/egressd/egressd/policy"
)

// newHoldingRig holds new containers in its cgroup, where else nothing is denied.
func newHoldingRig(t *testing.T) *rig {
	t.Helper()
	r := newBareRig(t)
	r.load(func(o loader.Options) (*loader.Datapath, error) {
		o.Reads = kernel.Reads{Containers: true}
		return loader.Open(o)
	})
	id, err := r.cg.ID()
	must(t, err)
	must(t, r.dp.SetWorkloads(map[uint64]loader.WorkloadState{
		id:             {ID: 1, Policy: testPolicy, Mode: policy.Off, Holds: true},
		loader.HeldKey: {ID: 2, Policy: policy.UnknownWorkload, Mode: policy.Enforce},
	}))
	must(t, r.dp.SetReady(true))
	must(t, r.dp.Attach(r.cg.Path()))
	return r
}

// at makes a cgroup; ID stands for a container's.
func (r *rig) at(path string) *world.Cgroup {
	r.t.Helper()
	path = filepath.Join(r.cg.Path(), strings.ReplaceAll(path, "ID", strings.Repeat("a", 64)))
	must(r.t, os.MkdirAll(filepath.Dir(path), 0o755))
	cg, err := world.MakeCgroup(path)
	must(r.t, err)
	return cg
}

// TestNewContainer: a cgroup that has a container's name is locked before anybody has heard
// of it, whatever its first process does; others are what is around them.
func TestNewContainer(t *testing.T) {
	r := newHoldingRig(t)
	long := strings.Repeat("l", 120) + ".slice"
	for _, tt := range []struct {
		path string
		held string // the part of the path that is the container's cgroup; "": none is
	}{
		{"system.slice/docker-ID.scope", "system.slice/docker-ID.scope"},
		{"system.slice/docker-ID.scope/init/x.service", "system.slice/docker-ID.scope"},
		{"a.slice/a-b.slice/docker-ID.scope", "a.slice/a-b.slice/docker-ID.scope"},
		{"docker-ID.scope", "docker-ID.scope"},
		{"machine.slice/libpod-ID.scope/container", "machine.slice/libpod-ID.scope"},
		{"system.slice/nerdctl-ID.scope", "system.slice/nerdctl-ID.scope"},
		{"system.slice/cri-containerd-ID.scope", "system.slice/cri-containerd-ID.scope"},
		{"docker/ID", "docker/ID"},
		{"default/web", "default"}, // containerd by itself
		{"a.slice/default/web/init", "a.slice/default"},
		{"default.x/web", ""},
		{"libpod_parent/libpod-ID", "libpod_parent/libpod-ID"},
		{"libpod_parent/ID/libpod-ID", "libpod_parent/ID"},
		{"ID", "ID"},
		{long + "/docker-ID.scope", long + "/docker-ID.scope"},
		{"system.slice/shop.service", ""},
		{"system.slice/shop.service/docker-ID.scope", ""}, // whoever runs there may make it
		{"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", ""},
		{"user.slice/user-1000.slice/session-1.scope", ""},
		{"machine.slice/libpod-conmon-ID.scope", ""},
		{"system.slice/docker-buildkit.scope", ""},
		{"system.slice/docker-IDa.scope", ""},
		{"system.slice/docker-ID", ""},
		{"docker/buildkit", ""},
		{"kubepods.slice/kubepods-podx.slice/cri-containerd-ID.scope", ""},
		{"kubelet.slice/kubelet-kubepods.slice/docker-ID.scope", ""},
		{"kubepods/podx/ID", ""},
	} {
		r.checkHeld(tt.path, tt.held)
	}
}

// checkHeld sees a new cgroup locked if it is held, as the part of it that is, and else free.
func (r *rig) checkHeld(path, held string) {
	r.t.Helper()
	for i, d := range dsts[:2] {
		id := func(s string) string { return strings.ReplaceAll(s, "ID", strings.Repeat(string("ab"[i]), 64)) }
		cg, dst := r.at(id(path)), hostport(d.addr, 443)
		dials := func(what string, free bool) {
			r.t.Helper()
			if got := r.runIn(r.world.Node, cg, "tcp", dst); (got.Errno == "ECONNREFUSED") == free {
				r.t.Errorf("%s, %s, to %s: %+v, want it free: %t", path, what, d.name, got, free)
			}
		}
		dials("new", held == "")
		if held != "" {
			if got := r.runIn(r.world.Node, cg, "sendto", dst); got.Errno != "EPERM" {
				r.t.Errorf("%s: a datagram to %s: %+v", path, d.name, got)
			}
			key, err := cgroup.ID(filepath.Join(r.cg.Path(), id(held)))
			must(r.t, err)
			must(r.t, r.dp.SetWorkload(key, loader.WorkloadState{ID: 3, Policy: testPolicy, Mode: policy.Off}))
			dials("known to be free", true)
		}
		must(r.t, cg.Close())
		// What is around it goes as well, up to what is held: the next one is new.
		for dir := filepath.Dir(path); held != "" && len(dir) >= len(held); dir = filepath.Dir(dir) {
			must(r.t, os.Remove(filepath.Join(r.cg.Path(), id(dir))))
		}
	}
}

// TestNewContainerInside: what is in a container is that container's, whatever its name, and
// nobody is held who is in a cgroup that does not say so.
func TestNewContainerInside(t *testing.T) {
	r := newHoldingRig(t)
	outer, inner := r.at("system.slice/docker-ID.scope"), r.at("system.slice/docker-ID.scope/system.slice/docker-ID.scope")
	defer outer.Close()
	defer inner.Close()
	id, err := outer.ID()
	must(t, err)
	must(t, r.dp.SetWorkload(id, loader.WorkloadState{ID: 3, Policy: testPolicy, Mode: policy.Off}))
	if got := r.runIn(r.world.Node, inner, "tcp", hostport(world.StrangerV4, 443)); got.Errno != "" {
		t.Errorf("in a container: %+v", got)
	}
}

// TestNewContainerFrame: no hook sees a packet socket being made; its first frame stops.
func TestNewContainerFrame(t *testing.T) {
	r := newHoldingRig(t)
	index := r.linkIndex(world.Uplink)
	must(t, r.world.Node.Do(func() error {
		return r.dp.Guard(loader.Interface{Index: index, Name: world.Uplink, Kind: loader.Uplink})
	}))
	for _, a := range guardFamilies {
		left := r.world.Packets(netip.MustParseAddr(a))
		service := r.at("system.slice/shop.service")
		if got := r.runIn(r.world.Node, service, "frame", hostport(a, 443), "ip"); got.Data != "sent" || r.world.Packets(netip.MustParseAddr(a)) == left {
			t.Errorf("%s from a service: %+v", a, got)
		}
		left = r.world.Packets(netip.MustParseAddr(a))
		container := r.at("system.slice/docker-ID.scope")
		if got := r.runIn(r.world.Node, container, "frame", hostport(a, 443), "ip"); got.Errno != "ENOBUFS" {
			t.Errorf("%s from a container: %+v", a, got)
		}
		if n := r.world.Packets(netip.MustParseAddr(a)) - left; n != 0 {
			t.Errorf("%s from a container: %d packets left", a, n)
		}
		must(t, container.Close())
		must(t, service.Close())
	}
}

// TestHeldAreDropped: what the kernel entered goes with the cgroup, and with the last reason
// to hold.
func TestHeldAreDropped(t *testing.T) {
	r := newHoldingRig(t)
	top, err := r.cg.ID()
	must(t, err)
	cg := r.at("system.slice/docker-ID.scope")
	free := map[uint64]loader.WorkloadState{top: {ID: 1, Policy: testPolicy, Mode: policy.Off}}
	held := map[uint64]loader.WorkloadState{top: {ID: 1, Policy: testPolicy, Mode: policy.Off, Holds: true}, loader.HeldKey: {ID: 2, Policy: policy.UnknownWorkload}}
	locked := func(what string, cg *world.Cgroup, want bool) {
		t.Helper()
		if got := r.runIn(r.world.Node, cg, "sendto", hostport(world.StrangerV4, 443)); (got.Errno == "EPERM") != want {
			t.Errorf("%s: %+v, locked: %t", what, got, want)
		}
	}
	locked("new", cg, true)
	must(t, r.dp.DropGone(held))
	locked("still there", cg, true)
	must(t, r.dp.SetWorkloads(free))
	must(t, r.dp.DropGone(free))
	locked("nothing is held any more", cg, false)
	must(t, cg.Close())
}

// TestFrameOfNobody: a frame of a packet socket is dropped when it cannot be said whose it
// is: the kernel's memory is not where the programs were told.
func TestFrameOfNobody(t *testing.T) {
	for name, reads := range map[string]kernel.Reads{"captured by name": {Captured: true}, "new containers": {Containers: true}} {
		t.Run(name, func(t *testing.T) {
			for _, wrong := range []bool{false, true} {
				r := newBareRig(t)
				r.load(func(o loader.Options) (*loader.Datapath, error) {
					return loader.OpenAs(o, func(spec *ebpf.CollectionSpec) {
						must(t, kernel.TellReads(spec, reads))
						if wrong {
							must(t, misplace(spec))
						}
					})
				})
				top, err := r.cg.ID()
				must(t, err)
				must(t, r.dp.SetWorkload(top, loader.WorkloadState{Outside: true}))
				if reads.Captured {
					must(t, r.dp.Follow(top, []loader.Named{{Path: []string{"captured"}, As: loader.WorkloadState{ID: 1, Policy: testPolicy}}}))
				}
				must(t, r.dp.SetReady(true))
				must(t, r.dp.Attach(r.cg.Path()))
				index := r.linkIndex(world.Uplink)
				must(t, r.world.Node.Do(func() error {
					return r.dp.Guard(loader.Interface{Index: index, Name: world.Uplink, Kind: loader.Uplink})
				}))
				for _, a := range guardFamilies {
					before, err := r.dp.Counters()
					must(t, err)
					got := r.run(true, "frame", hostport(a, 443), "ip")
					after, err := r.dp.Counters()
					must(t, err)
					if n := after["deny/no-workload"] - before["deny/no-workload"]; (got.Errno == "ENOBUFS") != wrong || (n == 1) != wrong {
						t.Errorf("%s, wrong place %t: %+v, %d denied", a, wrong, got, n)
					}
				}
			}
		})
	}
}

// misplace tells the programs that a task's cgroups are where it has nothing.
func misplace(spec *ebpf.CollectionSpec) error {
	k, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var task *btf.Struct
	if err := k.TypeByName("task_struct", &task); err != nil {
		return err
	}
	var o bpf.EgressdEgdOffsets
	v := spec.Variables[bpf.EgressdVarEgdOffsets]
	if err := v.Get(&o); err != nil {
		return err
	}
	for _, m := range task.Members {
		if m.Name == "journal_info" {
			o.TaskCgroups = m.Offset.Bytes()
		}
	}
	return v.Set(&o)
}
