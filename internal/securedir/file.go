// SPDX-License-Identifier: Apache-2.0

package securedir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// OpenFile is os.OpenFile for a regular file in a directory that Check finds
// good. With os.O_CREATE the directory is made as well. A file that somebody
// else may write is an Error, and so is a link; a FIFO does not block.
func OpenFile(path string, flag int) (f *os.File, err error) {
	err = with(filepath.Dir(path), flag&os.O_CREATE != 0, func(dir int) error {
		f, err = openAt(dir, path, flag)
		return err
	})
	return f, err
}

func openAt(dir int, path string, flag int) (*os.File, error) {
	fd, err := unix.Openat(dir, filepath.Base(path), flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, &Error{path, "is a symbolic link", "remove it and start again"}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		err = unix.SetNonblock(fd, false)
	}
	switch {
	case err != nil:
		err = &fs.PathError{Op: "open", Path: path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = &Error{path, "is not a regular file", "remove it and start again"}
	default:
		err = exclusive(&st, path)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// IsAt says whether an open file or directory is the one that is at a path now.
func IsAt(open *os.File, path string) bool {
	have, err := open.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(have, there)
}

// ReadFile reads what Replace wrote. An absent file is fs.ErrNotExist.
func ReadFile(path string) ([]byte, error) {
	f, err := OpenFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// NewSuffix ends the name of the file that Replace writes before it takes the
// place of the old one.
const NewSuffix = ".new"

// Replace writes a file and puts it in the place of the one at path, whatever
// that is: a crash, of the machine too, leaves the old one or the new one, and
// the new one when nil was returned. The directory is made if it is missing.
func Replace(path string, write func(*os.File) error) error {
	return with(filepath.Dir(path), true, func(dir int) error {
		name := filepath.Base(path)
		if err := unix.Unlinkat(dir, name+NewSuffix, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: path + NewSuffix, Err: err}
		}
		f, err := openAt(dir, path+NewSuffix, os.O_CREATE|os.O_EXCL|os.O_WRONLY)
		if err != nil {
			return err
		}
		// Without the first sync the new name could be on the disk before what it
		// stands for, without the second neither (fsync(2)).
		err = write(f)
		if err == nil {
			err = f.Sync()
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := unix.Renameat(dir, name+NewSuffix, dir, name); err != nil {
			return &fs.PathError{Op: "rename", Path: path + NewSuffix, Err: err}
		}
		return syncDir(dir, filepath.Dir(path))
	})
}

// syncDir makes last what was renamed in a directory. dir may be a descriptor
// that is good for finding things only. File systems that know no such thing
// (EINVAL) have nothing that would get lost.
func syncDir(dir int, path string) error {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != nil && !errors.Is(err, unix.EINVAL) {
		return &fs.PathError{Op: "sync", Path: path, Err: err}
	}
	return nil
}
