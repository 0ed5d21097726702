// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LooseError says that somebody other than root may move processes in a
// cgroup, or make cgroups there: it was delegated (cgroups(7)), as a systemd
// user manager's is, and a rootless container's.
type LooseError struct {
	// Cgroup is the directory that was delegated, File what in it is not
	// root's alone; "." is the directory itself.
	Cgroup, File string
	UID          uint32
	Mode         fs.FileMode // permissions
}

func (e *LooseError) Error() string {
	path := filepath.Join(e.Cgroup, e.File)
	if e.UID == 0 {
		return fmt.Sprintf("others than root may write %s (mode %04o)", path, e.Mode)
	}
	return fmt.Sprintf("uid %d owns %s (mode %04o)", e.UID, path, e.Mode)
}

// guarded are what decides who may move processes into a cgroup and out of
// those below it, and who may make cgroups in it.
var guarded = []string{".", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"}

// Secure returns a LooseError unless only root can move processes into the
// cgroup at dir, and make cgroups in it.
func Secure(dir string) error {
	for _, file := range guarded {
		var st unix.Stat_t
		path := filepath.Join(dir, file)
		if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) && file != "." {
			continue
		} else if err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		if st.Uid != 0 || st.Mode&0o022 != 0 {
			return &LooseError{Cgroup: dir, File: file, UID: st.Uid, Mode: fs.FileMode(st.Mode & 0o777)}
		}
	}
	return nil
}

// Held returns a LooseError unless only root can take a process out of the
// cgroup at dir. To move a process one must be able to write to the
// cgroup.procs of the cgroup that both places have in common, so what counts
// is what is above dir; of several that were delegated, the uppermost is
// returned: that one is held itself. The cgroup need not exist; what will be
// above it and is not there either will be made in what is.
func Held(dir string) error {
	err := heldNow(dir)
	for n := 1; n < heldTries && errors.Is(err, fs.ErrNotExist); n++ {
		err = heldNow(dir) // it, or what is above it, was removed while it was looked at
	}
	return err
}

// heldTries bounds how often Held looks at a cgroup that goes and comes.
const heldTries = 16

func heldNow(dir string) error {
	there, missing, err := nearest(dir)
	if err != nil {
		return err
	}
	above, err := Upwards(there)
	for errors.Is(err, fs.ErrNotExist) && there != "/" {
		missing = filepath.Base(there)
		there = filepath.Dir(there)
		above, err = Upwards(there)
	}
	if err != nil {
		return err
	}
	if missing == "" {
		above = above[1:]
	}
	return highest(above)
}

// Resolve makes the path of a cgroup, which need not exist, absolute and free of
// links. The nearest directory above that does must be a cgroup v2.
func Resolve(dir string) (string, error) {
	there, missing, err := nearest(dir)
	if err != nil {
		return "", err
	}
	if !isCgroup2(there) {
		return "", fmt.Errorf("%s is not a cgroup v2 directory", dir)
	}
	return filepath.Join(there, missing), nil
}

// nearest splits a path into what is there, without links, and what is missing.
func nearest(dir string) (there, missing string, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return "", "", fmt.Errorf("%s is not a directory", dir)
		}
		if err == nil {
			if there, err = filepath.EvalSymlinks(dir); err == nil {
				return there, missing, nil
			}
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return "", "", err
		}
		dir, missing = filepath.Dir(dir), filepath.Join(filepath.Base(dir), missing)
	}
}

// Place returns the nearest cgroup, from dir upwards, below which what is made
// by root is held. The error is that of what stands in the way when there is
// none inside limit; "" is no limit.
func Place(dir, limit string) (string, error) {
	above, err := Upwards(dir)
	if err != nil {
		return "", err
	}
	if limit != "" {
		if limit, err = filepath.EvalSymlinks(limit); err != nil {
			return "", err
		}
	}
	loose := highest(above)
	if loose == nil {
		return above[0], nil
	}
	e := (*LooseError)(nil)
	if !errors.As(loose, &e) {
		return "", loose
	}
	place := filepath.Dir(e.Cgroup)
	if e.Cgroup == above[len(above)-1] || limit != "" && !Contains(limit, place) {
		return "", loose
	}
	return place, nil
}

// highest is the error of the last of dirs that is not secure.
func highest(dirs []string) error {
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := Secure(dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

// Upwards lists dir and the cgroups above it, up to where they are mounted.
func Upwards(dir string) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	err = unix.Statfs(dir, &st)
	if err == nil && st.Type != unix.CGROUP2_SUPER_MAGIC {
		err = os.ErrInvalid
	}
	if err != nil {
		return nil, &fs.PathError{Op: "look above", Path: dir, Err: err}
	}
	out := []string{dir}
	for dir != "/" {
		if dir = filepath.Dir(dir); !isCgroup2(dir) {
			break
		}
		out = append(out, dir)
	}
	return out, nil
}

func isCgroup2(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}
