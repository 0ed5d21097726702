// SPDX-License-Identifier: Apache-2.0

package flock_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/flock"
)

func TestHolder(t *testing.T) {
	dir := t.TempDir()
	if pid, held, err := flock.Holder(dir); pid != 0 || held || err != nil {
		t.Errorf("nobody: %d, %t, %v", pid, held, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	if pid, held, err := flock.Holder(dir); pid != os.Getpid() || !held || err != nil {
		t.Errorf("this process: %d, %t, %v", pid, held, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if pid, held, err := flock.Holder(dir); pid != 0 || held || err != nil {
		t.Errorf("let go: %d, %t, %v", pid, held, err)
	}
	if _, _, err := flock.Holder(dir + "/absent"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestTakeOfKilled takes the lock of a process that was killed and waited for, while
// a child of its own still has the descriptor and lets go of it only then.
func TestTakeOfKilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	theirs, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if err := flock.Take(theirs); err != nil {
		t.Fatal(err)
	}
	holder := exec.Command("sh", "-c", "exec >&-; read line <&4; exec 3>&-; read line <&4")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	holder.ExtraFiles = []*os.File{theirs, in}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	theirs.Close() // the child alone has it
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the child has the lock: %v", err)
	}
	taken := make(chan error, 1)
	go func() { taken <- flock.Take(f) }()
	if _, err := out.WriteString("\n"); err != nil {
		t.Error(err)
	}
	if err := <-taken; err != nil {
		t.Errorf("the child let go: %v", err)
	}
	out.Close()
	_ = holder.Wait() // the second line never comes
}

// TestTakeOfLiving waits for nobody for long.
func TestTakeOfLiving(t *testing.T) {
	dir := t.TempDir()
	var files [2]*os.File
	for i := range files {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	if err := flock.Take(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := flock.Take(files[1]); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("somebody has it: %v", err)
	}
}
