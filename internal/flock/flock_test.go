// SPDX-License-Identifier: Apache-2.0

package flock_test

import (
	"errors"
	"os"
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
