// SPDX-License-Identifier: Apache-2.0

package cgroup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/testenv"
)

// nobody is a user without privileges.
const nobody = 65534

// tree makes outer/middle/inner.
func tree(t *testing.T) (outer, middle, inner string) {
	t.Helper()
	cg := testenv.Cgroup(t)
	outer = cg.Path()
	middle, inner = filepath.Join(outer, "middle"), filepath.Join(outer, "middle", "inner")
	for _, dir := range []string{middle, inner} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return outer, middle, inner
}

// TestHeld: what was delegated above a cgroup lets its processes go; what was
// delegated below, or the cgroup itself, does not.
func TestHeld(t *testing.T) {
	outer, middle, inner := tree(t)
	for _, c := range []struct {
		name    string
		at      string
		file    string
		uid     int
		mode    os.FileMode
		of      string
		loose   string // what Held names
		inside  string // where Place goes from inner, without a limit
		noPlace bool   // within outer
	}{
		{name: "root's", at: outer, file: ".", mode: 0o755, of: inner, inside: inner},
		{name: "directory", at: middle, file: ".", uid: nobody, mode: 0o755, of: inner, loose: middle, inside: outer},
		{name: "procs", at: middle, file: "cgroup.procs", uid: nobody, mode: 0o644, of: inner, loose: middle, inside: outer},
		{name: "threads", at: middle, file: "cgroup.threads", uid: nobody, mode: 0o644, of: inner, loose: middle, inside: outer},
		{name: "subtree", at: middle, file: "cgroup.subtree_control", uid: nobody, mode: 0o644, of: inner, loose: middle, inside: outer},
		{name: "group", at: middle, file: "cgroup.procs", mode: 0o664, of: inner, loose: middle, inside: outer},
		{name: "all", at: middle, file: "cgroup.procs", mode: 0o666, of: inner, loose: middle, inside: outer},
		{name: "itself", at: inner, file: ".", uid: nobody, mode: 0o755, of: inner, inside: middle},
		{name: "below", at: inner, file: ".", uid: nobody, mode: 0o755, of: middle, inside: middle},
		{name: "uppermost", at: outer, file: "cgroup.procs", uid: nobody, mode: 0o644, of: inner, loose: outer, inside: filepath.Dir(outer), noPlace: true},
	} {
		path := filepath.Join(c.at, c.file)
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chown(path, c.uid, 0), os.Chmod(path, c.mode)); err != nil {
			t.Fatal(err)
		}
		err = cgroup.Held(c.of)
		loose := (*cgroup.LooseError)(nil)
		if errors.As(err, &loose) != (c.loose != "") || loose != nil && (loose.Cgroup != c.loose || loose.File != c.file || int(loose.UID) != c.uid) {
			t.Errorf("%s: held: %v, want %q", c.name, err, c.loose)
		}
		if got, err := cgroup.Place(inner, ""); got != c.inside || err != nil {
			t.Errorf("%s: place: %s, %v; want %s", c.name, got, err, c.inside)
		}
		if got, err := cgroup.Place(inner, outer); (err != nil) != c.noPlace || errors.As(err, &loose) != c.noPlace {
			t.Errorf("%s: place inside %s: %s, %v", c.name, outer, got, err)
		}
		if err := errors.Join(os.Chown(path, 0, 0), os.Chmod(path, before.Mode().Perm())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHeldIsTheKernels: what Held says is what the kernel does.
func TestHeldIsTheKernels(t *testing.T) {
	outer, middle, inner := tree(t)
	leave := func(to string) error {
		c := exec.Command("sh", "-c", `echo $$ > "$0"/cgroup.procs`, to)
		dir, err := os.Open(inner)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		return c.Run()
	}
	if cgroup.Held(inner) != nil || leave(middle) == nil || leave(outer) == nil {
		t.Error("a process left cgroups that are root's")
	}
	if err := os.Chown(filepath.Join(middle, "cgroup.procs"), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if err := leave(middle); err != nil || cgroup.Held(inner) == nil {
		t.Errorf("the twin: a process could not leave a delegated cgroup: %v", err)
	}
	if leave(outer) == nil || cgroup.Held(middle) != nil {
		t.Error("a process left what was delegated as a whole")
	}
}

// TestHeldGoesAndComes: a cgroup that is removed and made anew while it is looked at,
// as that of a unit that is restarted, is no reason to call it loose.
func TestHeldGoesAndComes(t *testing.T) {
	_, _, inner := tree(t)
	done := make(chan struct{})
	var maker sync.WaitGroup
	maker.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if err := errors.Join(os.Remove(inner), os.Mkdir(inner, 0o755)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 1000 {
		if err := cgroup.Held(inner); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	maker.Wait()
}
