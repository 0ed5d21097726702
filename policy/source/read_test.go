// SPDX-License-Identifier: Apache-2.0

package source

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestOddFiles: what is no regular file of a real file system is an error, at
// once, whatever leads there; the same with a file beside it is not.
func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	pipe, socketDir := filepath.Join(dir, "pipe"), filepath.Join(dir, "real")
	must(t, syscall.Mkfifo(pipe, 0o600))
	must(t, os.Mkdir(socketDir, 0o755))
	good := filepath.Join(socketDir, "good")
	write(t, good, "good")
	link := filepath.Join(dir, "x.yaml")
	for target, want := range map[string]string{
		"/proc/kmsg": "a file of proc", "/proc/version": "a file of proc", "/proc/self/mem": "a file of proc",
		"/sys/kernel/notes": "a file of sysfs", "/sys/kernel/debug/tracing/trace_pipe": "", "/sys/kernel/tracing/trace_pipe": "",
		"/dev/zero": "not a regular file", "/dev/tty": "not a regular file", pipe: "not a regular file",
	} {
		if _, err := os.Stat(target); err != nil {
			continue // not here
		}
		must(t, os.Symlink(target, link))
		start := time.Now()
		_, err := Files([]string{dir})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "x.yaml") {
			t.Errorf("%s: %v, want %q", target, err, want)
		}
		if d := time.Since(start); d > readWait/2 {
			t.Errorf("%s: took %v", target, d)
		}
		must(t, os.Remove(link))
	}
	for _, target := range []string{good, "/dev/fd/" + descriptor(t, good)} {
		must(t, os.Symlink(target, link))
		if files, err := Files([]string{dir}); err != nil || string(files[0].Data) != "good" {
			t.Errorf("%s: %v %v", target, files, err)
		}
		must(t, os.Remove(link))
	}
}

// descriptor opens a file until the test ends.
func descriptor(t *testing.T, name string) string {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	return strconv.Itoa(fd)
}

// TestDeadline: what does not return is given up, and nothing is begun while
// it has not.
func TestDeadline(t *testing.T) {
	var d deadline
	stop, began := make(chan struct{}), 0
	if d.run(time.Millisecond, func() { <-stop }) {
		t.Error("it has not returned")
	}
	if d.run(time.Hour, func() { began++ }) || began > 0 {
		t.Error("begun beside one that hangs")
	}
	hung := d.hung
	close(stop)
	<-hung
	if !d.run(time.Hour, func() { began++ }) || began != 1 {
		t.Error("not begun after it has returned")
	}
	if !d.run(time.Hour, func() { began++ }) || began != 2 {
		t.Error("not begun again")
	}
}

// TestSizes: more than a file, or all together, may have is an error.
func TestSizes(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.yaml")
	write(t, name, "")
	must(t, os.Truncate(name, MaxFileSize+1))
	if _, err := Files([]string{dir}); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("%v", err)
	}
	must(t, os.Truncate(name, 8))
	if _, err := Files([]string{dir}); err != nil {
		t.Error(err)
	}
}
