// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/container"
	"github.com/egressd/egressd/policy"
)

// told are Containers that say what the test does.
type told struct {
	is     map[string]container.Description
	wanted []string
	primed int
	// namespaces are containerd's.
	namespaces []string
}

func (c *told) Namespaces() []string { return c.namespaces }

func (c *told) Want(there container.Found) {
	c.wanted = nil
	for path := range there.Containers {
		c.wanted = append(c.wanted, path)
	}
}

func (c *told) Prime() { c.primed++ }

func (c *told) Describe(id string) (container.Description, error) {
	if is, ok := c.is[id]; ok {
		return is, nil
	}
	return container.Description{}, errors.New("away")
}

func newContainerRig(t *testing.T, o Options) (*rig, *told) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: only root's cgroups are a runtime's")
	}
	c := &told{is: map[string]container.Description{}}
	o.Containers = c
	r := newRig(t, o, "")
	if err := os.Chmod(r.root, 0o755); err != nil {
		t.Fatal(err)
	}
	return r, c
}

func containerID(c string) string { return strings.Repeat(c, 64) }

func snapshotOf(t *testing.T, list ...*policy.Workload) *policy.Snapshot {
	t.Helper()
	s, err := new(policy.Snapshot).Update(&policy.Config{Workloads: list})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func selecting(namespace, name string, selectors ...policy.ContainerSelector) *policy.Workload {
	return &policy.Workload{Identity: policy.Identity{Name: name, Namespace: namespace}, Containers: selectors}
}

// name is what the kernel was told that a cgroup is; "": nothing, so what is around it counts.
func (r *rig) name(id uint64) string {
	as, ok := r.d.table[id]
	switch {
	case !ok:
		return ""
	case as.Policy == policy.UnknownWorkload:
		return "locked"
	}
	return r.NameOf(as.ID)
}

// TestBindContainers: a container is locked until it is known what it is, in a cgroup of
// containers before it has one; then it is what selects it, or what is around.
func TestBindContainers(t *testing.T) {
	r, c := newContainerRig(t, Options{Mode: policy.Enforce})
	s := snapshotOf(t,
		selecting("shop", "web", policy.ContainerSelector{Name: "web-*"}),
		selecting("shop", "front", policy.ContainerSelector{Name: "web-1"}),
		selecting("shop", "db", policy.ContainerSelector{Labels: map[string]string{"app": "db"}}))
	place, vm := r.mkdir("machine.slice"), r.mkdir("machine.slice/machine-vm.scope")
	service := r.mkdir("system.slice/shop.service")
	a, docker := r.mkdir("machine.slice/libpod-"+containerID("a")+".scope"), r.mkdir("system.slice/docker-"+containerID("d")+".scope")
	inner := r.mkdir("machine.slice/libpod-" + containerID("a") + ".scope/container/docker/" + containerID("d"))
	rest := r.mkdir("machine.slice/libpod-" + containerID("b") + ".scope")
	is := func(what string, id uint64, want string) {
		t.Helper()
		if got := r.name(id); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	r.bind(s)
	is("the place", place, "locked")
	is("podman's", a, "locked")
	is("docker's", docker, "locked")
	is("a machine among containers", vm, "node")
	is("a service", service, "")
	is("what a container made", inner, "")
	unknown := map[string]string{containerID("a"): "away", containerID("b"): "away", containerID("d"): "away"}
	if got := r.capture.Status().UnknownContainers; !maps.Equal(got, unknown) {
		t.Errorf("unknown: %v", got)
	}
	if c.primed != 1 || len(c.wanted) != 3 {
		t.Errorf("primed %d times, wanted %q", c.primed, c.wanted)
	}
	// The runtimes answer.
	c.is[containerID("a")] = container.Description{Runtime: container.Podman, Name: "web-1"}
	c.is[containerID("b")] = container.Description{Runtime: container.Podman, Name: "other"}
	c.is[containerID("d")] = container.Description{Runtime: container.Docker, Name: "web-2", Labels: map[string]string{"app": "db"}}
	r.bind(nil)
	is("the most specific selector", a, "shop/front")
	is("a name before a label", docker, "shop/web")
	is("one that nothing selects", rest, "node")
	is("the place", place, "locked")
	is("what a container made", inner, "")
	if got := r.capture.Status().UnknownContainers; len(got) != 0 || c.primed != 1 {
		t.Errorf("unknown: %v, primed %d times", got, c.primed)
	}
	// A name is changed; another container comes.
	c.is[containerID("d")] = container.Description{Runtime: container.Docker, Name: "db", Labels: map[string]string{"app": "db"}}
	fresh := r.mkdir("docker/" + containerID("e"))
	r.bind(nil)
	is("renamed", docker, "shop/db")
	is("new", fresh, "locked")
	// Without such Workloads nothing is locked.
	r.bind(described(t, "shop/web=system.slice/shop.service"))
	is("the place", place, "")
	is("podman's", a, "")
	is("new", fresh, "")
	is("a service", service, "shop/web")
	if got := r.capture.Status().UnknownContainers; len(got) != 0 {
		t.Errorf("unknown: %v", got)
	}
}

// TestContainersAround: what is around a container counts for those that nothing selects; a path
// has precedence; a mode of another namespace stays; audit denies nothing.
func TestContainersAround(t *testing.T) {
	r, c := newContainerRig(t, Options{Mode: policy.Audit})
	audit, off := policy.Audit, policy.Off
	lax := selecting("b", "lax", policy.ContainerSelector{Name: "lax"})
	lax.Mode = &off
	s := snapshotOf(t, lax,
		&policy.Workload{Identity: policy.Identity{Name: "all", Namespace: "a"}, Cgroups: []string{"docker/**"}, Mode: &audit},
		&policy.Workload{Identity: policy.Identity{Name: "one", Namespace: "a"}, Cgroups: []string{"docker/" + containerID("1")}})
	all := r.mkdir("docker")
	one, known, unknown, freed := r.mkdir("docker/"+containerID("1")), r.mkdir("docker/"+containerID("2")), r.mkdir("docker/"+containerID("3")), r.mkdir("docker/"+containerID("4"))
	c.is[containerID("2")] = container.Description{Name: "x"}
	c.is[containerID("4")] = container.Description{Name: "lax"}
	r.bind(s)
	for _, tt := range []struct {
		what string
		id   uint64
		want string
	}{{"the place", all, "a/all"}, {"by its path", one, "a/one"}, {"known", known, ""}, {"unknown", unknown, "locked"}, {"selected", freed, "b/lax"}} {
		if got := r.name(tt.id); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
	if got := r.d.table[freed].Mode; got != policy.Audit {
		t.Errorf("freed by another namespace: %v", got)
	}
	if got := r.d.table[unknown].Mode; got != policy.Audit {
		t.Errorf("an unknown one in audit mode: %v", got)
	}
}

// TestBindNamespaces: of containerd by itself, whatever is in the cgroup of a namespace is a
// container, and locked before it has an entry.
func TestBindNamespaces(t *testing.T) {
	r, c := newContainerRig(t, Options{Mode: policy.Enforce})
	s := snapshotOf(t, selecting("shop", "web", policy.ContainerSelector{Name: "web", Runtime: "containerd"}))
	ids := map[string]uint64{}
	for _, dir := range []string{"default", "default/web", "default/db", "default/new", "shop", "shop/web"} {
		ids[dir] = r.mkdir(dir)
	}
	c.is["default/web"] = container.Description{Runtime: container.Containerd, Name: "web"}
	c.is["default/db"] = container.Description{Runtime: container.Containerd, Name: "db"}
	c.is["shop/web"] = container.Description{Runtime: container.Containerd, Name: "web"}
	are := func(want map[string]string) {
		t.Helper()
		for dir, want := range want {
			if got := r.name(ids[dir]); got != want {
				t.Errorf("%s: %q, want %q", dir, got, want)
			}
		}
	}
	r.bind(s)
	are(map[string]string{"default": "locked", "default/web": "shop/web", "default/db": "node", "default/new": "locked", "shop": "", "shop/web": ""})
	c.namespaces = []string{"shop"}
	r.bind(nil)
	are(map[string]string{"default": "locked", "default/web": "shop/web", "shop": "locked", "shop/web": "shop/web"})
	if got := r.capture.Status().UnknownContainers; !maps.Equal(got, map[string]string{"default/new": "away"}) {
		t.Errorf("unknown: %v", got)
	}
	// What is said of the namespace is for those that are known.
	r.bind(snapshotOf(t, selecting("shop", "web", policy.ContainerSelector{Name: "web", Runtime: "containerd"}),
		&policy.Workload{Identity: policy.Identity{Name: "rest", Namespace: "node"}, Cgroups: []string{"default"}}))
	are(map[string]string{"default": "locked", "default/web": "shop/web", "default/db": "node/rest", "default/new": "locked"})
}

// TestOwnContainer: egressd in a container is not locked by itself.
func TestOwnContainer(t *testing.T) {
	r, _ := newContainerRig(t, Options{Mode: policy.Enforce})
	own := r.mkdir("docker/" + containerID("a"))
	r.own = own
	r.bind(snapshotOf(t, selecting("a", "b", policy.ContainerSelector{Name: "*"})))
	if as := r.d.table[own]; !as.Exempt || as.ID != Own {
		t.Errorf("egressd's own container: %+v", as)
	}
}

// TestBindUnits: units and slices are found wherever systemd has them, and a unit that is
// captured by name has its Workload before it is there.
func TestBindUnits(t *testing.T) {
	r, _ := newContainerRig(t, Options{Mode: policy.Enforce})
	s := snapshotOf(t,
		&policy.Workload{Identity: policy.Identity{Name: "any", Namespace: "a"}, Units: []string{"shop@*.service"}},
		&policy.Workload{Identity: policy.Identity{Name: "one", Namespace: "a"}, Units: []string{"shop@1.service", `dev-x\x2dy.mount`}},
		&policy.Workload{Identity: policy.Identity{Name: "all", Namespace: "a"}, Slices: []string{"shop.slice"}})
	ids := map[string]uint64{}
	for _, dir := range []string{"shop.slice", "shop.slice/shop@1.service", "shop.slice/shop-b.slice/shop@2.service", `system.slice/dev-x\x2dy.mount`, "docker/shop@1.service", "shop.slice/x.service"} {
		ids[dir] = r.mkdir(dir)
	}
	r.bind(s)
	for dir, want := range map[string]string{
		"shop.slice": "a/all", "shop.slice/shop@1.service": "a/one", "shop.slice/shop-b.slice/shop@2.service": "a/any",
		`system.slice/dev-x\x2dy.mount`: "a/one", "docker/shop@1.service": "", "shop.slice/x.service": "",
	} {
		if got := r.name(ids[dir]); got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
	// By its name: it comes later.
	unit := filepath.Join(r.root, `system.slice/dev-x\x2dz.mount`)
	r.capture.where = place{named: []string{unit}, at: filepath.Join(r.root, "system.slice"), byName: true}
	r.bind(snapshotOf(t, &policy.Workload{Identity: policy.Identity{Name: "later", Namespace: "a"}, Units: []string{`dev-x\x2dz.mount`}}))
	if len(r.d.named) != 1 || r.NameOf(r.d.named[0].As.ID) != "a/later" {
		t.Errorf("captured by name: %+v", r.d.named)
	}
}
