// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// TestFullStateDirectory: it stops nothing, is said once, and what is missing in it
// is written when there is room again.
func TestFullStateDirectory(t *testing.T) {
	t.Parallel()
	keep := tcp("keep", world.API, "7")
	n := prepare(t, map[string]string{"keep.yaml": keep}, nil)
	if err := os.MkdirAll(n.d.StateDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", n.d.StateDir(), "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(n.d.StateDir(), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := n.d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	saved := func(name, text string) bool {
		b, err := os.ReadFile(filepath.Join(n.d.StateDir(), name))
		return err == nil && strings.Contains(string(b), text)
	}
	eventually(t, soon, "the first policy is saved", func() bool { return saved("last-good.json", "") })
	full := filepath.Join(n.d.StateDir(), "full")
	f, err := os.Create(full)
	for err == nil { // until there is no room
		_, err = f.Write(make([]byte, 4096))
	}
	_ = f.Close()

	n.learn(t, world.API)
	n.write(t, "more.yaml", hosts("more", world.GoogleAPIs))
	const names, policy = "learned addresses could not be saved", "the policy in force could not be saved"
	at := n.logs(t, 0, names)
	n.logs(t, 0, policy)
	for _, file := range []string{"learned.json", "last-good.json"} {
		if got := n.metric(t, `egressd_state_unsaved{file="`+file+`"}`); got != "1" {
			t.Errorf("%s: the metric is %q", file, got)
		}
		if e := n.egressd(t, "status"); !strings.Contains(e.stdout, "NOT SAVED") || !strings.Contains(e.stdout, file+", for the next start: ") {
			t.Errorf("status: %+v", e)
		}
	}
	n.learn(t, world.GoogleAPIs) // which is to be saved, too
	if a := n.curl(t, n.in, "http://"+world.GoogleAPIs); a.status != 200 {
		t.Errorf("%+v", a)
	}

	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	eventually(t, 6*soon, "both are saved", func() bool {
		return saved("learned.json", world.GoogleAPIs) && strings.Count(n.d.Log()[at:], "saved again") == 2
	})
	for _, text := range []string{names, policy} {
		if c := strings.Count(n.d.Log(), text); c != 1 {
			t.Errorf("it is said %d times that %s", c, text)
		}
	}
	if got := n.metric(t, `egressd_state_unsaved{file="learned.json"}`); got != "0" {
		t.Errorf("the metric is %q", got)
	}
	if e := n.egressd(t, "status"); strings.Contains(e.stdout, "NOT SAVED") {
		t.Errorf("status: %s", e.stdout)
	}
}
