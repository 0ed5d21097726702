// SPDX-License-Identifier: Apache-2.0

package capacity

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestSpent: a process that can open nothing says so.
func TestSpent(t *testing.T) {
	if Spent() {
		t.Error("descriptors are left")
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	got := Spent()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if !got {
		t.Error("no descriptor is left")
	}
}
