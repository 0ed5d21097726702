// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// tables is a Datapath of maps, whose functions fail as they are told.
type tables struct {
	table                  map[uint64]loader.WorkloadState
	named                  []loader.Named
	set, raised, followed  int
	setErr, raiseErr, fErr error
}

func (d *tables) SetWorkloads(w map[uint64]loader.WorkloadState) error {
	if d.setErr != nil && !errors.As(d.setErr, new(*loader.WorkloadsFullError)) {
		return d.setErr
	}
	d.set, d.table = d.set+1, maps.Clone(w)
	return d.setErr
}

func (d *tables) RaiseEpoch() error {
	d.raised++
	return d.raiseErr
}

func (d *tables) Follow(_ uint64, named []loader.Named) error {
	if d.fErr != nil {
		return d.fErr
	}
	d.followed, d.named = d.followed+1, named
	return nil
}

func (d *tables) Beside([]uint64) error                          { return nil }
func (d *tables) DropGone(map[uint64]loader.WorkloadState) error { return nil }

// rig is a Binding over directories that stand for cgroups: they are what a
// cgroup's id is read from, and no kernel side needs them to be more.
type rig struct {
	*Binding
	t    *testing.T
	root string
	d    *tables
	said *bytes.Buffer
}

func newRig(t *testing.T, o Options, captured string) *rig {
	t.Helper()
	root := t.TempDir()
	said := new(bytes.Buffer)
	o.Name, o.Described, o.Log = "node", true, slog.New(slog.NewTextHandler(said, nil))
	d := &tables{}
	c := &Capture{where: place{named: []string{filepath.Join(root, captured)}, at: filepath.Join(root, captured)}, log: o.Log}
	b, err := NewBinding(c, d, o)
	if err != nil {
		t.Fatal(err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	b.Watch(stopped, func() {}) // which lets go of what it watches with
	b.root, b.watcher = root, nil
	b.held = func(string) error { return nil }
	return &rig{b, t, root, d, said}
}

// mkdir makes a cgroup and returns its id.
func (r *rig) mkdir(name string) uint64 {
	r.t.Helper()
	dir := filepath.Join(r.root, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		r.t.Fatal(err)
	}
	id, err := cgroup.ID(dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

func (r *rig) bind(s *policy.Snapshot) {
	r.t.Helper()
	if err := r.Bind(s); err != nil {
		r.t.Fatal(err)
	}
}

// described is a snapshot with Workloads: "namespace/name=pattern" or
// "namespace/name=pattern=mode".
func described(t *testing.T, list ...string) *policy.Snapshot {
	t.Helper()
	c := &policy.Config{}
	for _, text := range list {
		f := strings.Split(text, "=")
		namespace, name, _ := strings.Cut(f[0], "/")
		w := policy.Workload{Identity: policy.Identity{Name: name, Namespace: namespace}, Cgroups: []string{f[1]}}
		for _, m := range []policy.Mode{policy.Enforce, policy.Audit, policy.Off} {
			if len(f) > 2 && m.String() == f[2] {
				w.Mode = &m
			}
		}
		c.Workloads = append(c.Workloads, &w)
	}
	s, err := new(policy.Snapshot).Update(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBind: each cgroup is told to the kernel as what it is, when it comes and when it
// goes; where nothing has changed the kernel is left alone.
func TestBind(t *testing.T) {
	r := newRig(t, Options{Mode: policy.Enforce, Services: []cgroup.PathPattern{"node/dhcp"}}, "node")
	node, shop, own := r.mkdir("node"), r.mkdir("node/shop"), r.mkdir("node/egressd")
	dhcp, outside := r.mkdir("node/dhcp"), r.mkdir("outside")
	r.own = own
	r.bind(described(t, "a/shop=node/shop=audit", "a/later=node/later", "a/out=outside"))
	want := func(what string, id uint64, number uint32, mode policy.Mode) {
		t.Helper()
		if got, ok := r.d.table[id]; !ok || got.ID != number || got.Mode != mode || r.NumberOf(id) != number {
			t.Errorf("%s: %+v, %t", what, got, ok)
		}
	}
	want("the node", node, Node, policy.Enforce)
	want("a Workload", shop, Probe+1, policy.Audit)
	want("a service of the node", dhcp, Services, policy.Off)
	if w := r.d.table[own]; !w.Exempt || w.ID != Own {
		t.Errorf("egressd itself: %+v", w)
	}
	if _, ok := r.d.table[outside]; ok || len(r.d.table) != 4 {
		t.Errorf("what is not captured is bound: %v", r.d.table)
	}
	if r.NameOf(Probe+1) != "a/shop" || r.NameOf(Node) != "node" || r.NameOf(999) != "" {
		t.Error("names are others")
	}
	if m, ok := r.ModeOf("a/shop"); !ok || m != policy.Audit {
		t.Errorf("mode %v, %t", m, ok)
	}
	r.bind(nil)
	if r.d.set != 1 || r.d.raised != 1 {
		t.Errorf("nothing has changed, and the table was set %d times, the epoch raised %d times", r.d.set, r.d.raised)
	}
	later := r.mkdir("node/later")
	r.bind(nil)
	want("one that comes", later, Probe+2, policy.Enforce)
	if err := os.Remove(filepath.Join(r.root, "node/shop")); err != nil {
		t.Fatal(err)
	}
	r.bind(nil)
	if _, ok := r.d.table[shop]; ok || r.d.raised != 3 {
		t.Errorf("one that is gone is bound, or the epoch was not raised: %d", r.d.raised)
	}
	if r.NameOf(Probe+1) != "a/shop" {
		t.Error("events of one that is gone have no name")
	}
	if all := r.All(); len(all) != 3 || all[0].Name != "node" || all[2].Name != "a/later" {
		t.Errorf("%+v", all)
	}
}

// TestBindAgain: what the kernel did not take is given to it again the next time, and
// the workloads are those that it knows until then.
func TestBindAgain(t *testing.T) {
	failed := errors.New("failed")
	for _, c := range []struct {
		name string
		fail func(*tables, error)
	}{
		{"the table", func(d *tables, err error) { d.setErr = err }},
		{"the epoch", func(d *tables, err error) { d.raiseErr = err }},
	} {
		r := newRig(t, Options{Mode: policy.Enforce}, "node")
		r.mkdir("node")
		r.bind(described(t))
		shop := r.mkdir("node/shop")
		next := described(t, "a/shop=node/shop")
		c.fail(r.d, failed)
		raised := r.d.raised
		if err := r.Bind(next); !errors.Is(err, failed) {
			t.Errorf("%s: %v", c.name, err)
		}
		if r.NumberOf(shop) != 0 {
			t.Errorf("%s: it counts as known", c.name)
		}
		c.fail(r.d, nil)
		r.bind(nil)
		if r.d.table[shop].ID == 0 || r.NumberOf(shop) == 0 || r.d.raised == raised {
			t.Errorf("%s: it was not done again: %v", c.name, r.d.table)
		}
	}
}

// TestBindFull: what has no room is under the policy around it, which is said and
// keeps nothing else from being bound.
func TestBindFull(t *testing.T) {
	r := newRig(t, Options{Mode: policy.Enforce}, "node")
	r.mkdir("node")
	r.d.setErr = &loader.WorkloadsFullError{Left: 3, Max: 5}
	r.bind(described(t))
	if n, text := r.Unbound(); n != 3 || text == "" || !strings.Contains(r.said.String(), "no room") {
		t.Errorf("%d, %q: %s", n, text, r.said)
	}
	r.d.setErr = nil
	r.mkdir("node/more")
	r.bind(described(t, "a/more=node/more"))
	if n, text := r.Unbound(); n != 0 || text != "" {
		t.Errorf("%d, %q", n, text)
	}
}

// TestBindLoose: a cgroup that anybody can move processes into is not under less
// policy than the node, and that is said once.
func TestBindLoose(t *testing.T) {
	r := newRig(t, Options{Mode: policy.Enforce, Services: []cgroup.PathPattern{"node/dhcp"}}, "node")
	r.mkdir("node")
	shop, dhcp := r.mkdir("node/shop"), r.mkdir("node/dhcp")
	r.held = func(string) error { return errors.New("loose") }
	s := described(t, "a/shop=node/shop=off")
	r.bind(s)
	r.bind(s)
	if got := r.d.table[shop]; got.ID != Probe+1 || got.Mode != policy.Enforce {
		t.Errorf("a Workload: %+v", got)
	}
	if got, ok := r.d.table[dhcp]; ok {
		t.Errorf("a service of the node: %+v", got)
	}
	if n := strings.Count(r.said.String(), "loose"); n != 2 {
		t.Errorf("said %d times of two cgroups: %s", n, r.said)
	}
	r.held = func(string) error { return nil }
	r.bind(s)
	if got := r.d.table[shop]; got.Mode != policy.Off {
		t.Errorf("held again: %+v", got)
	}
}

// TestFollow: what is captured by name is told with what its name is to be, whether it
// is there or not; what the kernel did not take is told again.
func TestFollow(t *testing.T) {
	r := newRig(t, Options{Mode: policy.Enforce}, "slice")
	r.capture.where.byName, r.capture.where.named = true, []string{filepath.Join(r.root, "slice/shop")}
	slice := r.mkdir("slice")
	failed := errors.New("failed")
	r.d.fErr = failed
	s := described(t, "a/shop=slice/shop=audit")
	if err := r.Bind(s); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	r.d.fErr = nil
	r.bind(s)
	key := loader.NamedKey([]string{"shop"})
	if n := r.d.named; len(n) != 1 || n[0].As.ID != Probe+1 || n[0].As.Mode != policy.Audit || n[0].As.Home != key {
		t.Errorf("%+v", n)
	}
	if got := r.d.table[slice]; !got.Outside {
		t.Errorf("what is around it: %+v", got)
	}
	if _, ok := r.d.table[key]; ok {
		t.Error("a name is in the table of cgroups")
	}
	shop := r.mkdir("slice/shop")
	r.bind(nil)
	if got := r.d.table[shop]; got.ID != Probe+1 || got.Home != key || r.d.followed != 1 {
		t.Errorf("it came: %+v, told %d times", got, r.d.followed)
	}
}

// TestShut: those that are shut are told to the kernel at once, and only if they were
// open; the next look opens them again if their policy does.
func TestShut(t *testing.T) {
	open := true
	r := newRig(t, Options{Mode: policy.Enforce, Open: func(*policy.Policy) bool { return open }}, "node")
	node, shop := r.mkdir("node"), r.mkdir("node/shop")
	r.bind(described(t, "a/shop=node/shop"))
	isOpen := func(id uint64) bool { return r.d.table[id].AllowAny }
	if !isOpen(node) || !isOpen(shop) {
		t.Fatalf("%v", r.d.table)
	}
	failed := errors.New("failed")
	r.d.setErr = failed
	if err := r.Shut(func(w loader.WorkloadState) bool { return w.ID == Node }); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	r.d.setErr = nil
	for range 2 {
		if err := r.Shut(func(w loader.WorkloadState) bool { return w.ID == Node }); err != nil {
			t.Fatal(err)
		}
		if isOpen(node) || !isOpen(shop) || r.d.set != 2 {
			t.Errorf("%v, set %d times", r.d.table, r.d.set)
		}
	}
	if r.bind(nil); !isOpen(node) {
		t.Error("its policy opens it, and it stays shut")
	}
	open = false
	if r.bind(nil); isOpen(node) || isOpen(shop) {
		t.Error("their policies do not open them")
	}
}
