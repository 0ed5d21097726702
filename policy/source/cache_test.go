// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestCache: a file is read again when its stamp changed, and, as long as it
// has not settled, even when not.
func TestCache(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.yaml")
	write(t, name, "one")
	write(t, filepath.Join(dir, "b.yaml"), "other")
	var c Cache
	get := func() []byte {
		t.Helper()
		files, err := c.Files([]string{dir})
		must(t, err)
		if len(files) != 2 || string(files[1].Data) != "other" {
			t.Fatalf("files %v", files)
		}
		return files[0].Data
	}
	first := get()
	if string(first) != "one" || !c.files[name].fresh {
		t.Fatalf("read %q, settled %t", first, !c.files[name].fresh)
	}
	if again := get(); &again[0] != &first[0] {
		t.Error("a file with the same content is other memory")
	}

	// The same length within one tick of the clock: nothing but the content
	// is another one.
	entry := c.files[name]
	write(t, name, "two")
	info, err := os.Stat(name)
	must(t, err)
	entry.stamp = stampOf(info)
	c.files[name] = entry
	if got := get(); string(got) != "two" {
		t.Errorf("read %q after a second write in a tick, want two", got)
	}

	// Once it has settled the stamp is trusted: the file is not opened.
	entry = c.files[name]
	entry.fresh, entry.data = false, []byte("kept")
	c.files[name] = entry
	if got := get(); string(got) != "kept" {
		t.Errorf("read %q, want what is kept for the stamp", got)
	}
	for what, change := range map[string]func() error{
		"a rename":    func() error { write(t, name+".new", "333"); return os.Rename(name+".new", name) },
		"other times": func() error { return os.Chtimes(name, time.Unix(1, 0), time.Unix(1, 0)) },
		"a link": func() error {
			write(t, filepath.Join(dir, "real"), "333")
			return os.Symlink("real", name+".l")
		},
	} {
		must(t, change())
		if what == "a link" {
			must(t, os.Rename(name+".l", name))
		}
		if got := get(); string(got) == "kept" {
			t.Errorf("not read again after %s", what)
		}
		entry = c.files[name]
		entry.fresh, entry.data = false, []byte("kept")
		c.files[name] = entry
	}

	// An error leaves the cache as it is; what is gone is forgotten.
	if _, err := c.Files([]string{dir, filepath.Join(dir, "gone")}); err == nil {
		t.Error("no error for a missing path")
	}
	must(t, os.Remove(filepath.Join(dir, "b.yaml")))
	_, err = c.Files([]string{dir})
	must(t, err)
	if len(c.files) != 1 {
		t.Errorf("%d files kept, want 1", len(c.files))
	}
}
