// SPDX-License-Identifier: Apache-2.0

// Package securedir makes and opens directories, and files in them, that
// nobody but root can put something else in the place of. It looks at every
// directory on the way and follows no symbolic link.
package securedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Error says which file or directory on the way is not root's alone.
type Error struct {
	Path string
	What string // what is wrong with it
	Do   string // what to do about it
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s, so somebody else could replace what egressd keeps there; %s", e.Path, e.What, e.Do)
}

// newMode is the mode of directories that are made.
const newMode = 0o700

// Ensure makes dir, and what is missing above it, and checks it.
func Ensure(dir string) error { return with(dir, true, func(int) error { return nil }) }

// Check returns an Error unless dir, and every directory above it, belongs to
// root or to the user of this process and cannot be written by others. Above
// dir others may write where the sticky bit keeps them from what is not
// theirs, as in /tmp. An absent directory is fs.ErrNotExist.
func Check(dir string) error { return with(dir, false, func(int) error { return nil }) }

// with calls f with a descriptor of a directory that has been checked.
func with(dir string, create bool, f func(fd int) error) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/", Err: err}
	}
	defer func() { unix.Close(fd) }()
	path := "/"
	var names []string
	if dir != "/" {
		names = strings.Split(dir[1:], "/")
	}
	if err := check(fd, path, len(names) == 0); err != nil {
		return err
	}
	for i, name := range names {
		path = filepath.Join(path, name)
		next, err := step(fd, name, path, create)
		if err != nil {
			return err
		}
		unix.Close(fd)
		fd = next
		if err := check(fd, path, i == len(names)-1); err != nil {
			return err
		}
	}
	return f(fd)
}

// step opens, and makes where create is set, one directory in another.
func step(at int, name, path string, create bool) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(at, name, flags, 0)
	if errors.Is(err, unix.ENOENT) && create {
		if err := unix.Mkdirat(at, name, newMode); err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, &fs.PathError{Op: "mkdir", Path: path, Err: err}
		}
		fd, err = unix.Openat(at, name, flags, 0)
	}
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// check looks at a directory; last: nobody else may make anything in it.
func check(fd int, path string, last bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		do := "name the directory itself"
		if real, err := filepath.EvalSymlinks(path); err == nil {
			do += ": " + real
		}
		return &Error{path, "is a symbolic link", do}
	default:
		return &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	}
	if !last && st.Mode&unix.S_ISVTX != 0 && owned(&st) {
		return nil
	}
	return exclusive(&st, path)
}

func owned(st *unix.Stat_t) bool { return st.Uid == 0 || int(st.Uid) == os.Geteuid() }

// exclusive returns an Error unless only its owner, who is root or this
// process's user, can write.
func exclusive(st *unix.Stat_t, path string) error {
	switch {
	case !owned(st):
		return &Error{path, fmt.Sprintf("belongs to uid %d", st.Uid),
			fmt.Sprintf("see what it is, remove it (rm -r %s) and start again, or name another place", path)}
	case st.Mode&0o022 != 0:
		return &Error{path, fmt.Sprintf("can be written by others (mode %04o)", st.Mode&0o7777),
			fmt.Sprintf("see what is in it, run chmod go-w %s and start again, or name another place", path)}
	}
	return nil
}
