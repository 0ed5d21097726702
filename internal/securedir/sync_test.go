// SPDX-License-Identifier: Apache-2.0

package securedir

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// failSync makes fsync(2) fail with EIO on this thread from now on, except of
// one descriptor. The caller's goroutine must be locked to the thread and end
// with it (seccomp(2); the filter reads struct seccomp_data).
func failSync(except int) error {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	arg := uint32(16) // offset of the low half of args[0]
	if b := [2]byte{1}; *(*uint16)(unsafe.Pointer(&b)) != 1 {
		arg += 4
	}
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // nr
		{Code: equal, Jf: 3, K: unix.SYS_FSYNC},
		{Code: load, K: arg},
		{Code: equal, Jt: 1, K: uint32(except)},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}

// TestReplaceSyncs: a file takes the place of the old one only when the disk has
// it, and is said to have taken it only when the disk has that as well.
func TestReplaceSyncs(t *testing.T) {
	for _, c := range []struct {
		name  string
		fail  func(f, spare *os.File) error
		holds string
		want  error
	}{
		{"all is well", func(f, spare *os.File) error { return nil }, "new", nil},
		{"the file", func(f, spare *os.File) error { return failSync(-1) }, "old", unix.EIO},
		// The directory is opened with the lowest number that is free.
		{"the directory", func(f, spare *os.File) error { return errors.Join(spare.Close(), failSync(int(f.Fd()))) }, "new", unix.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			put := func(text string, before func(f *os.File) error) error {
				return Replace(path, func(f *os.File) error {
					_, err := f.WriteString(text)
					return errors.Join(err, before(f))
				})
			}
			if err := put("old", func(*os.File) error { return nil }); err != nil {
				t.Fatal(err)
			}
			spare, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			defer spare.Close()
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // for good: the thread ends with the goroutine
				done <- put("new", func(f *os.File) error { return c.fail(f, spare) })
			}()
			if err := <-done; !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if data, err := ReadFile(path); err != nil || string(data) != c.holds {
				t.Errorf("the file has %q (%v), want %q", data, err, c.holds)
			}
		})
	}
}
