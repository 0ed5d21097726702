// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/egressd/egressd/loader/bpffs"
)

// TestOneAtATime: a state directory has one egressd, whose files stay while it runs
// and go when it has ended; what others put there stays.
func TestOneAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if made := Made(dir); len(made) != 2 {
		t.Errorf("%v are not there yet", made)
	}
	lock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if made := Made(dir); len(made) != 0 {
		t.Errorf("%v are there", made)
	}
	if second, err := Lock(dir); !errors.Is(err, ErrRuns) || !errors.Is(err, bpffs.ErrInUse) {
		t.Errorf("a second one: %v, %v", second, err)
	}
	theirs := filepath.Join(dir, "theirs")
	for _, path := range []string{theirs, filepath.Join(dir, LearnedFile)} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if gone := Absent(filepath.Join(dir, LearnedFile), filepath.Join(dir, LockFile)); len(gone) != 0 {
		t.Errorf("%v were removed under the one that runs", gone)
	}
	ended := make(chan error, 1)
	go func() { ended <- WaitUnlocked(t.Context(), dir) }()
	lock.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := Remove(dir); err != nil {
		t.Fatal(err)
	}
	if gone := Absent(theirs, filepath.Join(dir, LearnedFile), filepath.Join(dir, LockFile)); len(gone) != 2 {
		t.Errorf("%v are not there", gone)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	lock, err = Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if err := errors.Join(Remove(dir), Remove(dir)); err != nil {
		t.Error(err)
	}
	if len(Absent(dir)) != 1 {
		t.Error("the empty directory stays")
	}
}
