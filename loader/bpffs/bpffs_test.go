// SPDX-License-Identifier: Apache-2.0

package bpffs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestMarks: they are there until they are taken away, once or often.
func TestMarks(t *testing.T) {
	dir := testenv.BPFFS(t)
	for range 2 {
		if err := Mark(dir, BegunMark); err != nil || !Marked(dir, BegunMark) || Marked(dir, LockedMark) {
			t.Errorf("marked: %v, %v, %v", err, Marked(dir, BegunMark), Marked(dir, LockedMark))
		}
	}
	for range 2 {
		if err := Unmark(dir, BegunMark, LockedMark); err != nil || Marked(dir, BegunMark) {
			t.Errorf("unmarked: %v, %v", err, Marked(dir, BegunMark))
		}
	}
	if Mark(filepath.Join(dir, "absent"), BegunMark) == nil {
		t.Error("a directory that is not there was marked")
	}
}

// TestLock: one has a pin directory at a time; who has a duplicate of the lock has it,
// and the lock of another directory is none of this one.
func TestLock(t *testing.T) {
	dir, other := filepath.Join(testenv.BPFFS(t), "a"), filepath.Join(testenv.BPFFS(t), "b")
	first, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); !errors.Is(err, ErrTaken) || !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("locked twice: %v", err)
	}
	beside, err := LockDir(other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := TakeLock(dir, beside.at); err == nil {
		t.Error("the lock of another directory was taken for this one's")
	}
	if _, err := TakeLock(dir, nil); err == nil {
		t.Error("no lock was taken for one")
	}
	if renewed, err := first.Keep(true); renewed || err != nil {
		t.Errorf("kept: %t, %v", renewed, err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if renewed, err := first.Keep(true); !renewed || err != nil {
		t.Errorf("kept where the directory was removed: %t, %v", renewed, err)
	}
	if _, err := LockDir(dir); !errors.Is(err, ErrTaken) {
		t.Errorf("the new directory: %v", err)
	}
	if err := errors.Join(first.Close(), beside.Close()); err != nil {
		t.Error(err)
	}
	again, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestNoBPFFS: no pins where no bpf filesystem is, and nothing is left there.
func TestNoBPFFS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pins")
	for _, err := range []error{Make(dir), Prepare(dir, true)} {
		if err == nil || !strings.Contains(err.Error(), "mount -t bpf bpffs "+Root) {
			t.Errorf("made: %v", err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
	if Make("") == nil {
		t.Error("no directory was made")
	}
	if got := existing(filepath.Join(dir, "a", "b")); got != filepath.Dir(dir) {
		t.Errorf("the nearest that is there: %s", got)
	}
}

// TestPinKeeper: what is right is looked at once, what is missing or another's is
// pinned again, and what cannot be is an error.
func TestPinKeeper(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "egd_x")
	looks := 0
	broken := errors.New("broken")
	var fails error
	pin := Pin{Name: "egd_x", is: func(at string) bool {
		looks++
		text, err := os.ReadFile(at)
		return err == nil && string(text) == "right"
	}, pin: func(at string) error {
		if fails != nil {
			return fails
		}
		return os.WriteFile(at, []byte("right"), 0o600)
	}}
	replace := func(text string) {
		t.Helper()
		next := filepath.Join(dir, "next") // another inode
		if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
	}
	k := NewPinKeeper(dir)
	for _, c := range []struct {
		name    string
		before  func()
		fails   error
		missing bool
		looks   int
	}{
		{"missing at first", func() {}, nil, true, 0},
		{"known to be right", func() {}, nil, false, 0},
		{"another inode, and right", func() { replace("right") }, nil, false, 1},
		{"known again", func() {}, nil, false, 0},
		{"another's", func() { replace("wrong") }, nil, true, 1},
		{"removed", func() { _ = os.Remove(path) }, nil, true, 0},
		{"removed, and cannot be pinned", func() { _ = os.Remove(path) }, broken, true, 0},
		{"and then it can", func() {}, nil, true, 0},
	} {
		c.before()
		looks, fails = 0, c.fails
		missing, err := k.Keep(pin)
		if missing != c.missing || looks != c.looks || !errors.Is(err, c.fails) {
			t.Errorf("%s: missing %t, %d looks, %v", c.name, missing, looks, err)
		}
	}
}
