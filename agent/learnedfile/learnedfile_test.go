// SPDX-License-Identifier: Apache-2.0

package learnedfile

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// names have what the test says; dumps counts how often they were asked.
type names struct {
	changes  uint64
	all      []learned.Saved
	dumps    int
	restored []learned.Saved
}

func (n *names) Changes() uint64 { return n.changes }
func (n *names) Dump() []learned.Saved {
	n.dumps++
	return n.all
}

func (n *names) Restore(s []learned.Saved, _ func(string) (policy.PolicyID, bool)) (int, error) {
	n.restored = s
	return len(s), nil
}

func one(name string) []learned.Saved {
	return []learned.Saved{{Policy: 1, Name: name, Addr: netip.MustParseAddr("192.0.2.1"), Until: time.Unix(1000, 0).UTC(), Workloads: []string{"w"}}}
}

// TestSaveAndRestore: what was saved last is what the next start learns; nothing is
// written where nothing changed, and nothing by a daemon that another one replaced.
func TestSaveAndRestore(t *testing.T) {
	dir := t.TempDir()
	n := &names{changes: 1, all: one("a.example")}
	f := New(dir, n, &control.Unsaved{})
	if count, err := f.Restore(nil); count != 0 || err != nil || n.restored != nil {
		t.Errorf("no file: %d, %v", count, err)
	}
	for range 2 {
		if err := f.Save(); err != nil || n.dumps != 1 {
			t.Errorf("%d dumps, %v", n.dumps, err)
		}
	}
	n.changes, n.all = 2, one("b.example")
	if err := f.Save(); err != nil {
		t.Error(err)
	}
	f.Release()
	n.changes, n.all = 3, one("c.example")
	if err := f.Save(); err != nil || n.dumps != 2 {
		t.Errorf("the file is another daemon's: %d dumps, %v", n.dumps, err)
	}
	next := &names{}
	if count, err := New(dir, next, nil).Restore(nil); count != 1 || err != nil || !reflect.DeepEqual(next.restored, one("b.example")) {
		t.Errorf("restored %d, %v: %+v", count, err, next.restored)
	}
}

// TestFailures: what could not be written is tried again, and not at once; a file that
// is broken teaches nothing.
func TestFailures(t *testing.T) {
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no directory can be there
		t.Fatal(err)
	}
	n := &names{changes: 1, all: one("a.example")}
	unsaved := &control.Unsaved{}
	f := New(dir, n, unsaved)
	now := time.Now()
	if f.Keep(log, now); n.dumps != 1 || unsaved.Texts()[control.SavedNames] == "" || !strings.Contains(said.String(), "learned addresses could not be saved") {
		t.Errorf("%d dumps, unsaved %v, said %s", n.dumps, unsaved.Texts(), said.String())
	}
	if f.Keep(log, now.Add(time.Second)); n.dumps != 1 {
		t.Error("it was tried again at once")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if f.Keep(log, now.Add(time.Minute)); n.dumps != 2 || len(unsaved.Texts()) != 0 {
		t.Errorf("%d dumps, unsaved %v", n.dumps, unsaved.Texts())
	}
	if err := os.WriteFile(filepath.Join(dir, state.LearnedFile), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Restore(nil); err == nil || errors.Is(err, os.ErrNotExist) || n.restored != nil {
		t.Errorf("a broken file: %v, learned %v", err, n.restored)
	}
}

// TestNone: a command's gateway keeps nothing.
func TestNone(t *testing.T) {
	var f *Store
	f.Keep(slog.New(slog.DiscardHandler), time.Now())
	f.Release()
	count, err := f.Restore(nil)
	if err := errors.Join(err, f.Save()); err != nil || count != 0 {
		t.Errorf("%d, %v", count, err)
	}
}
