// SPDX-License-Identifier: Apache-2.0

package control

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/load"
	"github.com/egressd/egressd/policy/source"
)

// emptyFiles are contents that hold no policy objects.
var emptyFiles = map[string]string{
	"nothing":     "",
	"comments":    "# nothing\n---\n# here\n",
	"other kinds": "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n",
	"documents":   "---\n---\n",
	"null":        "null\n",
}

// TestEmptyPolicy: files without objects don't take the place of a policy, unless
// that is wanted; one object of any kind is a policy.
func TestEmptyPolicy(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	const workload = "{apiVersion: egressd.dev/v1, kind: Workload, metadata: {name: w}, spec: {cgroups: [a]}}\n"
	for _, allow := range []bool{false, true} {
		c := newConfiguration(Options{Config: []string{dir}, AllowEmpty: allow})
		try := func(what string, want error) {
			t.Helper()
			l, err := c.load(nil)
			if err = c.refuses(l, err); !errors.Is(err, want) || err != nil && want == nil {
				t.Errorf("%s, allowed %t: %v, want %v", what, allow, err, want)
			}
		}
		refused := errEmpty
		if allow {
			refused = nil
		}
		for what, text := range emptyFiles {
			writeFile(t, file, text)
			try(what, refused)
		}
		writeFile(t, file, serviceEntry("a", "a.example.com"))
		try("a ServiceEntry", nil)
		writeFile(t, file, workload)
		try("a Workload", nil)
		writeFile(t, file, "kind: ServiceEntry\n")
		try("an error", load.ErrPolicy)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		try("an empty directory", refused)
		c.paths = append(c.paths, filepath.Join(dir, "absent"))
		try("a missing path as well", os.ErrNotExist)
		if _, err := c.load(nil); !allow && onlyEmpty(err) {
			t.Errorf("%v is taken for an empty directory alone", err)
		}
	}
	if _, err := source.Files([]string{dir}); !errors.As(err, new(*source.EmptyError)) {
		t.Errorf("an empty directory: %v", err)
	}
}

// TestEmptyStart: a start whose files hold no objects takes the last good policy,
// and what they say where there is none.
func TestEmptyStart(t *testing.T) {
	dir := t.TempDir()
	file, saved := filepath.Join(dir, "a.yaml"), filepath.Join(t.TempDir(), "last-good.json")
	begin := func(o Options) (Loaded, string, error) {
		t.Helper()
		var log bytes.Buffer
		o.Config, o.LastGood = []string{dir}, saved
		o.Log = slog.New(slog.NewTextHandler(&log, nil))
		a := New(o)
		l, err := a.First(false)
		if err == nil && a.empty != l.Empty {
			t.Errorf("empty in force %t, want %t", a.empty, l.Empty)
		}
		if err == nil {
			a.SaveLastGood()
		}
		return l, log.String(), err
	}
	writeFile(t, file, "# nothing\n")
	if l, log, err := begin(Options{}); err != nil || !l.Empty || !strings.Contains(log, "everything is denied") {
		t.Fatalf("without an earlier policy: %+v, %v: %s", l, err, log)
	}
	writeFile(t, file, serviceEntry("a", "a.example.com"))
	if l, log, err := begin(Options{}); err != nil || l.Empty || log != "" {
		t.Fatalf("%+v, %v: %s", l, err, log)
	}
	for what, text := range emptyFiles {
		writeFile(t, file, text)
		l, log, err := begin(Options{})
		if err != nil || l.Empty || !opens(l.Snapshot, "a.example.com") || !strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
			t.Errorf("%s: %+v, %v: %s", what, l, err, log)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if l, _, err := begin(Options{}); err != nil || !opens(l.Snapshot, "a.example.com") {
		t.Errorf("an empty directory: %v", err)
	}
	if l, _, err := begin(Options{AllowEmpty: true}); err != nil || !l.Empty {
		t.Errorf("an empty directory that is wanted: %v", err)
	}
	if err := os.Remove(saved); err != nil {
		t.Fatal(err)
	}
	if _, _, err := begin(Options{}); !errors.Is(err, errEmpty) {
		t.Errorf("an empty directory without an earlier policy: %v", err)
	}
}
