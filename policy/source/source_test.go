// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func write(t *testing.T, name, data string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yml", "a.yaml", "c.json", ".hidden.yaml", "notes.txt", "d.yaml~"} {
		write(t, filepath.Join(dir, name), name)
	}
	must(t, os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o755))
	other := filepath.Join(t.TempDir(), "rules")
	write(t, other, "any name")

	files, err := Files([]string{dir, other, filepath.Join(dir, "a.yaml")})
	must(t, err)
	var got []string
	for _, f := range files {
		got = append(got, filepath.Base(f.Name)+"="+string(f.Data))
	}
	want := []string{"a.yaml=a.yaml", "b.yml=b.yml", "c.json=c.json", "rules=any name"}
	if !slices.Equal(got, want) {
		t.Errorf("Files = %q, want %q", got, want)
	}
}

// configMap lays a directory out as the kubelet does: files are links into
// ..data, which is a link to the directory of one version.
func configMap(t *testing.T, dir, version, data string) {
	t.Helper()
	must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
	write(t, filepath.Join(dir, version, "rules.yaml"), data)
	must(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
	must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if _, err := os.Lstat(filepath.Join(dir, "rules.yaml")); err != nil {
		must(t, os.Symlink(filepath.Join("..data", "rules.yaml"), filepath.Join(dir, "rules.yaml")))
	}
}

func TestFilesConfigMap(t *testing.T) {
	dir := t.TempDir()
	configMap(t, dir, "..v1", "one")
	files, err := Files([]string{dir})
	must(t, err)
	if len(files) != 1 || string(files[0].Data) != "one" {
		t.Errorf("Files = %v, want rules.yaml with \"one\"", files)
	}
}

func TestFilesErrors(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.yaml")
	write(t, big, "")
	must(t, os.Truncate(big, MaxFileSize+1))
	pipe := filepath.Join(dir, "pipe")
	must(t, syscall.Mkfifo(pipe, 0o600))
	dangling := t.TempDir()
	must(t, os.Symlink("nowhere", filepath.Join(dangling, "x.yaml")))
	missing := filepath.Join(dir, "missing")

	tests := []struct {
		paths []string
		want  []string
	}{
		{nil, []string{"no configuration path"}},
		{[]string{t.TempDir()}, []string{"no *.yaml"}},
		{[]string{dangling}, []string{"x.yaml: no such file"}},
		{[]string{big, pipe, missing}, []string{"larger than", "not a regular file", "no such file"}},
	}
	for _, tt := range tests {
		files, err := Files(tt.paths)
		if err == nil || files != nil {
			t.Errorf("Files(%q) = %d files, %v; want an error and no files", tt.paths, len(files), err)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("Files(%q): %q does not contain %q", tt.paths, err, w)
			}
		}
	}
}

// startWatch runs Watch until the test ends, and fails the test if Watch
// does not return then.
func startWatch(t *testing.T, paths ...string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	calls, done := make(chan struct{}, 100), make(chan struct{})
	log := slog.New(slog.DiscardHandler)
	w := NewWatcher(paths, log)
	go func() {
		defer close(done)
		w.Run(ctx, func() { calls <- struct{}{} })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Watch did not end with its context")
		}
	})
	return calls
}

func expectCall(t *testing.T, calls <-chan struct{}, after string) {
	t.Helper()
	select {
	case <-calls:
	case <-time.After(10 * time.Second):
		t.Fatalf("no call after %s", after)
	}
}

func TestWatchDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	must(t, os.Mkdir(dir, 0o755))
	a := filepath.Join(dir, "a.yaml")
	write(t, a, "1")
	calls := startWatch(t, dir)

	write(t, a, "22")
	expectCall(t, calls, "a write")

	tmp := filepath.Join(dir, ".a.yaml.swp")
	write(t, tmp, "33")
	must(t, os.Rename(tmp, a))
	expectCall(t, calls, "a rename onto the file")

	write(t, filepath.Join(dir, "b.yaml"), "")
	expectCall(t, calls, "a new file")

	must(t, os.Remove(a))
	expectCall(t, calls, "a removal")

	must(t, os.Rename(dir, dir+".old"))
	expectCall(t, calls, "the directory moved away")
	must(t, os.Mkdir(dir, 0o755))
	write(t, a, "4")
	expectCall(t, calls, "the directory replaced")
	drain(calls)
	write(t, a, "55")
	expectCall(t, calls, "a write in the new directory")
}

// drain empties calls: some steps above may be reported in two calls.
func drain(calls <-chan struct{}) {
	for {
		select {
		case <-calls:
		default:
			return
		}
	}
}

func TestWatchFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "rules")
	calls := startWatch(t, name)
	write(t, name, "1")
	expectCall(t, calls, "the file appeared")
	write(t, name+".tmp", "2")
	must(t, os.Rename(name+".tmp", name))
	expectCall(t, calls, "a rename onto the file")
}

func TestWatchConfigMap(t *testing.T) {
	dir := t.TempDir()
	configMap(t, dir, "..v1", "one")
	calls := startWatch(t, dir)
	best := time.Hour
	for i := range 5 {
		start := time.Now()
		old := fmt.Sprint("..v", i+1)
		configMap(t, dir, fmt.Sprint("..v", i+2), fmt.Sprint("version ", i))
		must(t, os.RemoveAll(filepath.Join(dir, old))) // as the kubelet does
		expectCall(t, calls, "the ..data link was swapped")
		best = min(best, time.Since(start))
		files, err := Files([]string{dir})
		must(t, err)
		if got := string(files[0].Data); got != fmt.Sprint("version ", i) {
			t.Errorf("swap %d: read %q", i, got)
		}
	}
	if best >= settleTime/2 {
		t.Errorf("the fastest of 5 swaps was reported after %v", best)
	}
}

// TestWatchIgnores proves that other files of the directory are no changes:
// the call that follows is the one for the file that is one, and it is alone.
func TestWatchIgnores(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a.yaml")
	write(t, a, "1")
	w := NewWatcher([]string{dir}, slog.New(slog.DiscardHandler))
	defer w.close()
	before := w.scan()
	write(t, filepath.Join(dir, "notes.txt"), "x")
	write(t, filepath.Join(dir, ".a.yaml.swp"), "x")
	if now := w.scan(); len(now) != len(before) || now[a] != before[a] {
		t.Errorf("scan sees files that are no configuration: %v, before %v", now, before)
	}
	must(t, os.Chtimes(a, time.Unix(1, 0), time.Unix(1, 0)))
	if now := w.scan(); now[a] == before[a] {
		t.Error("scan does not see a changed file")
	}
}

// TestWatchWithoutInotify sees a change by the scan alone.
func TestWatchWithoutInotify(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.yaml")
	write(t, name, "1")
	w := NewWatcher([]string{name}, slog.New(slog.DiscardHandler))
	w.close()
	w.notify = nil
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan struct{})
	go func() {
		defer close(seen)
		w.Run(ctx, cancel)
	}()
	write(t, name, "22")
	select {
	case <-seen:
		if t.Context().Err() != nil {
			t.Error("the test ended first")
		}
	case <-time.After(10 * time.Second):
		t.Error("the change was not seen")
		cancel()
	}
}
