// SPDX-License-Identifier: Apache-2.0

package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestFile: a file is rotated by its size, and opened anew after it was moved away.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	f, err := Open(path, 20, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range 9 {
		if _, err := fmt.Fprintf(f, "line %04d\n", i); err != nil { // 10 bytes
			t.Fatal(err)
		}
	}
	want := map[string]string{"": "line 0008\n", ".1": "line 0006\nline 0007\n", ".2": "line 0004\nline 0005\n", ".3": ""}
	check := func() {
		t.Helper()
		for suffix, text := range want {
			got, err := os.ReadFile(path + suffix)
			if string(got) != text || (err != nil) != (text == "") {
				t.Errorf("%s: %q, %v", suffix, got, err)
			}
		}
	}
	check()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("others may read it: %v, %v", info, err)
	}
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte("old\n"))
	if err := f.Reopen(); err != nil {
		t.Fatal(err)
	}
	_, _ = f.Write([]byte("new\n"))
	want[""], want[".moved"] = "new\n", "line 0008\nold\n"
	check()
}

// TestFileRefused: what is no file of egressd's own is not written to.
func TestFileRefused(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, dir, "/dev/null", filepath.Join(dir, "no", "where")} {
		if f, err := Open(path, 0, 0); err == nil {
			f.Close()
			t.Errorf("%s was opened", path)
		}
	}
}

// TestConcurrent: lines that many write while the file is rotated, and moved away and
// opened anew, are all there, whole and once.
func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const writers, each = 8, 200
	f, err := Open(path, 4<<10, writers*each) // none is removed
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if _, err := fmt.Fprintf(f, "writer %d line %d\n", w, i); err != nil {
					t.Error(err)
				}
				if i%50 == 25 {
					_ = os.Rename(path, fmt.Sprintf("%s.moved-%d-%d", path, w, i)) // another may have moved it
					if err := f.Reopen(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	files, _ := filepath.Glob(path + "*")
	seen := map[string]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			seen[line]++
		}
	}
	for w := range writers {
		for i := range each {
			if line := fmt.Sprintf("writer %d line %d\n", w, i); seen[line] != 1 {
				t.Errorf("%q is there %d times", line, seen[line])
			}
			delete(seen, fmt.Sprintf("writer %d line %d\n", w, i))
		}
	}
	if len(seen) > 0 || len(files) < 3 {
		t.Errorf("%d files, and lines that nobody wrote: %v", len(files), seen)
	}
}

// TestFullDisk: what a full disk cuts is taken back, and lines go on when there is room.
func TestFullDisk(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(dir, "log")
	f, err := Open(path, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	line := append(bytes.Repeat([]byte("x"), 999), '\n')
	written := 0
	for err == nil {
		if _, err = f.Write(line); err == nil {
			written++
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || written == 0 {
		t.Fatalf("%d lines, %v", written, err)
	}
	check := func(lines int) {
		t.Helper()
		if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, bytes.Repeat(line, lines)) {
			t.Errorf("%d bytes, want %d lines, %v", len(text), lines, err)
		}
	}
	check(written)
	if err := unix.Mount("none", dir, "", unix.MS_REMOUNT, "size=128k"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(line); err != nil {
		t.Error(err)
	}
	check(written + 1)
}
