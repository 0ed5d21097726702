// SPDX-License-Identifier: Apache-2.0

// Package logfile is a file that lines are appended to, and that is rotated by its size
// or by somebody else.
package logfile

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// RotatedFile is a file of whole lines. One that has grown beyond its size is
// renamed to PATH.1, that to PATH.2 and so on, and the last is removed. Its methods
// are safe for concurrent use.
type RotatedFile struct {
	path string
	size int64 // of a file, in bytes, beyond which the next is begun; 0: none
	kept int   // how many old ones stay

	mu      sync.Mutex
	file    *os.File // nil: it could not be opened
	written int64    // of it
}

// Open opens or makes a file, for root and its group alone. The last element of
// the path is no symbolic link: whoever may write to the directory could have egressd
// write elsewhere.
func Open(path string, size int64, kept int) (*RotatedFile, error) {
	f := &RotatedFile{path: path, size: size, kept: kept}
	return f, f.Reopen()
}

// Reopen opens the path anew, after somebody has moved the file away (logrotate). What
// fails leaves the file that was open.
func (f *RotatedFile) Reopen() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open()
}

func (f *RotatedFile) open() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o640)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", f.path)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if f.file != nil {
		_ = f.file.Close() // every line was written on its own
	}
	f.file, f.written = file, info.Size()
	return nil
}

// Write appends one line, wholly or not at all: of one that a full disk has cut nothing
// stays, so that the next does not go on in its middle.
func (f *RotatedFile) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return 0, os.ErrClosed
	}
	if f.size > 0 && f.written > 0 && f.written+int64(len(line)) > f.size {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(line)
	if err != nil && n > 0 {
		n = f.takeBack(n)
	}
	f.written += int64(n)
	return n, err
}

// takeBack removes the n bytes that were written last, and returns how many stay.
func (f *RotatedFile) takeBack(n int) int {
	info, err := f.file.Stat()
	if err != nil || f.file.Truncate(info.Size()-int64(n)) != nil {
		return n
	}
	return 0
}

// rotate moves the old files on and begins a new one.
func (f *RotatedFile) rotate() error {
	name := func(n int) string {
		if n == 0 {
			return f.path
		}
		return f.path + "." + strconv.Itoa(n)
	}
	if f.kept == 0 {
		if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return f.open()
	}
	for n := f.kept - 1; n >= 0; n-- {
		if err := os.Rename(name(n), name(n+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return f.open()
}

// Close closes the file.
func (f *RotatedFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
