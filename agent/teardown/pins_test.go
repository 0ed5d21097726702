// SPDX-License-Identifier: Apache-2.0

package teardown

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/state"
)

// TestPinsOfTheLivingStay: what was left by who has ended is removed; a daemon that was
// not reached, and an exec that runs, would put their pins back, so these stay and
// are named.
func TestPinsOfTheLivingStay(t *testing.T) {
	for _, c := range []struct {
		name, living string
		reached      bool
		stay, want   string // of the directories; in the error
	}{
		{"nobody runs", "", false, "", ""},
		{"a daemon that was reached", state.NodePins, true, "", ""},
		{"a daemon that was not", state.NodePins, false, state.NodePins, "its policy stays in force"},
		{"an exec", "exec-A", true, "exec-A", "end that command"},
		{"all", state.NodePins + " exec-A", false, state.NodePins + " exec-A", "end that command"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "pins")
			for _, name := range []string{state.NodePins, "exec-A", "exec-B"} {
				if err := os.MkdirAll(filepath.Join(root, name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			for _, name := range strings.Fields(c.living) {
				f, err := os.Open(filepath.Join(root, name))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
					t.Fatal(err)
				}
			}
			p, err := OpenPins(root)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			var did []string
			p.kernel = kernel{
				attachedTo:  func(string) ([]uint64, error) { return []uint64{7}, nil },
				unload:      func(dir string) (int, error) { did = append(did, "unload"); return 2, os.Remove(dir) },
				removeProbe: func(id uint64) error { did = append(did, "probe"); return nil },
			}
			removed, err := p.Remove(c.reached)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			var stay []string
			left, rerr := os.ReadDir(root)
			for _, d := range left {
				stay = append(stay, d.Name())
			}
			slices.Sort(stay)
			want := strings.Fields(c.stay)
			slices.Sort(want)
			if !slices.Equal(stay, want) || errors.Is(rerr, os.ErrNotExist) != (c.stay == "") {
				t.Errorf("%v stay (%v), want %v", stay, rerr, want)
			}
			if n := 3 - len(want); removed != 2*n || strings.Join(did, " ") != strings.TrimSpace(strings.Repeat("unload probe ", n)) {
				t.Errorf("removed %d by %v", removed, did)
			}
			daemon := strings.Contains(c.living, state.NodePins)
			if err := p.Stuck(); (err != nil) != daemon {
				t.Errorf("stuck: %v", err)
			}
		})
	}
}

// TestNoPins: a root that is not there has nothing to remove.
func TestNoPins(t *testing.T) {
	p, err := OpenPins(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if n, err := p.Remove(false); n != 0 || err != nil || p.Stuck() != nil {
		t.Errorf("%d removed, %v, %v", n, err, p.Stuck())
	}
}
