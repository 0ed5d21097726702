// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/bpffs"
)

// exclusive attaches a program that lets no other one be at a hook of a cgroup,
// until the function that it returns is called.
func exclusive(t *testing.T, cg *world.Cgroup, h loader.Hook) (free func()) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "alone", Type: h.Type, AttachType: h.Attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	must(t, err)
	must(t, link.RawAttachProgram(link.RawAttachProgramOptions{Target: cg.FD(), Program: p, Attach: h.Attach}))
	return func() {
		must(t, link.RawDetachProgram(link.RawDetachProgramOptions{Target: cg.FD(), Program: p, Attach: h.Attach}))
		must(t, p.Close())
	}
}

// attachedTo lists the programs of egressd that are attached to a cgroup.
func attachedTo(t *testing.T, cg *world.Cgroup, hooks []loader.Hook) map[string]ebpf.ProgramID {
	t.Helper()
	out := map[string]ebpf.ProgramID{}
	for _, h := range hooks {
		found, err := link.QueryPrograms(link.QueryOptions{Target: cg.FD(), Attach: h.Attach})
		must(t, err)
		for _, one := range found.Programs {
			p, err := ebpf.NewProgramFromID(one.ID)
			must(t, err)
			info, err := p.Info()
			must(t, err)
			if strings.HasPrefix(info.Name, "egd_") {
				out[h.Name] = one.ID
			}
			must(t, p.Close())
		}
	}
	return out
}

// awaitAttached waits until so many are attached: the kernel detaches the program
// of a link that was closed a little later.
func awaitAttached(t *testing.T, what string, cg *world.Cgroup, hooks []loader.Hook, want int) {
	t.Helper()
	var got map[string]ebpf.ProgramID
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = attachedTo(t, cg, hooks); len(got) == want {
			return
		}
	}
	t.Errorf("%s: attached: %v, want %d", what, got, want)
}

// entries lists a directory.
func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}

// fail opens and attaches, which must fail, and takes all back.
func fail(t *testing.T, dir, path string) error {
	t.Helper()
	d, err := loader.Open(loader.Options{PinDir: dir, Renew: true})
	if err != nil {
		return err
	}
	if err = d.Attach(path); err == nil {
		t.Fatal("it was attached")
	}
	must(t, d.Rollback())
	must(t, d.Close())
	return err
}

// TestFirstAttachFails: wherever the first attaching fails, nothing is attached and
// nothing pinned by it, and the error names who is in the way.
func TestFirstAttachFails(t *testing.T) {
	testenv.RequireRoot(t)
	cg, dir := testenv.Cgroup(t), filepath.Join(testenv.BPFFS(t), "pins")
	d, err := loader.Open(loader.Options{PinDir: dir})
	must(t, err)
	hooks := d.Hooks()
	pins := entries(t, dir)
	must(t, d.Rollback())
	must(t, d.Close())
	check := func(what string, left ...string) {
		t.Helper()
		awaitAttached(t, what, cg, hooks, 0)
		if got := entries(t, dir); !slices.Equal(got, left) {
			t.Errorf("%s: left: %v, want %v", what, got, left)
		}
	}
	check("nothing was attached")
	for _, h := range hooks {
		free := exclusive(t, cg, h)
		err := fail(t, dir, cg.Path())
		if !strings.Contains(err.Error(), `"alone"`) || !strings.Contains(err.Error(), "detach it") {
			t.Errorf("%s: %v", h.Name, err)
		}
		check("a foreign program at " + h.Name)
		free()
		pins = append(pins, "link_"+h.Name)
	}
	for _, name := range pins {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		_ = fail(t, dir, cg.Path())
		check("a directory at "+name, name)
		must(t, os.Remove(filepath.Join(dir, name)))
	}
	d, err = loader.Open(loader.Options{PinDir: dir})
	must(t, err)
	must(t, d.Attach(cg.Path()))
	if got := attachedTo(t, cg, hooks); len(got) != len(hooks) {
		t.Errorf("with nothing in the way: %v", got)
	}
	must(t, d.Unload())
	must(t, d.Close())
}

// TestLaterAttachFails: where programs are at work already, a start that fails
// leaves these, not some of its own; with another cgroup as well.
func TestLaterAttachFails(t *testing.T) {
	testenv.RequireRoot(t)
	cg, other, dir := testenv.Cgroup(t), testenv.Cgroup(t), filepath.Join(testenv.BPFFS(t), "pins")
	d, err := loader.Open(loader.Options{PinDir: dir, Renew: true})
	must(t, err)
	must(t, d.Attach(cg.Path()))
	hooks := d.Hooks()
	must(t, d.Close())
	for _, h := range hooks {
		// The other cgroup: the links of the first hooks are made anew there.
		before, pins := attachedTo(t, cg, hooks), entries(t, dir)
		free := exclusive(t, other, h)
		_ = fail(t, dir, other.Path())
		free()
		if got := attachedTo(t, cg, hooks); !maps.Equal(got, before) || len(got) != len(hooks) {
			t.Errorf("%s in another cgroup: %v, were %v", h.Name, got, before)
		}
		awaitAttached(t, h.Name+" in another cgroup", other, hooks, 0)
		if got := entries(t, dir); !slices.Equal(got, pins) {
			t.Errorf("%s in another cgroup: pins %v, were %v", h.Name, got, pins)
		}
	}
	for _, h := range hooks {
		// The same one, where this hook was lost: the others' programs are replaced.
		must(t, os.Remove(filepath.Join(dir, "link_"+h.Name)))
		awaitAttached(t, h.Name, cg, hooks, len(hooks)-1)
		free := exclusive(t, cg, h)
		before := attachedTo(t, cg, hooks)
		_ = fail(t, dir, cg.Path())
		if got := attachedTo(t, cg, hooks); !maps.Equal(got, before) || len(got) != len(hooks)-1 {
			t.Errorf("%s: %v, were %v", h.Name, got, before)
		}
		free()
		d, err := loader.Open(loader.Options{PinDir: dir, Renew: true})
		must(t, err)
		must(t, d.Attach(cg.Path()))
		if got := attachedTo(t, cg, hooks); len(got) != len(hooks) {
			t.Errorf("%s: with nothing in the way: %v", h.Name, got)
		}
		must(t, d.Close())
	}
	_, err = bpffs.Unload(dir)
	must(t, err)
}

// TestKilledFirstAttach: what was attached before a kill is taken away by whoever
// locks the pins next, unless a start had finished.
func TestKilledFirstAttach(t *testing.T) {
	testenv.RequireRoot(t)
	cg, dir := testenv.Cgroup(t), filepath.Join(testenv.BPFFS(t), "pins")
	lock := func() {
		t.Helper()
		l, err := bpffs.LockDir(dir)
		must(t, err)
		must(t, l.Close())
	}
	for n := range 3 {
		d, err := loader.Open(loader.Options{PinDir: dir})
		must(t, err)
		hooks := d.Hooks()
		must(t, d.KillAttach(cg.Path(), 1+n*6))
		if got := attachedTo(t, cg, hooks); len(got) != 1+n*6 {
			t.Errorf("%d: attached: %v", n, got)
		}
		must(t, d.Close())
		lock()
		awaitAttached(t, "killed", cg, hooks, 0)
		if pins := entries(t, dir); len(pins) > 0 {
			t.Errorf("%d: pinned: %v", n, pins)
		}
	}
	d, err := loader.Open(loader.Options{PinDir: dir})
	must(t, err)
	must(t, d.Attach(cg.Path()))
	// Made anew, and killed: the rest is held.
	must(t, d.KillAttach(cg.Path(), 3))
	hooks := d.Hooks()
	must(t, d.Close())
	lock()
	if got := attachedTo(t, cg, hooks); len(got) != len(hooks) {
		t.Errorf("attached: %v", got)
	}
	_, err = bpffs.Unload(dir)
	must(t, err)
}
