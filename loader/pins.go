// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/securedir"
)

// BPFFS is where the bpf filesystem is mounted by convention.
const BPFFS = "/sys/fs/bpf"

// ensureBPFFS makes dir, and mounts a bpffs at BPFFS when dir lies there and
// none is mounted yet.
func ensureBPFFS(dir string) error {
	if dir == "" {
		return errors.New("no directory to pin to")
	}
	if strings.HasPrefix(filepath.Clean(dir), BPFFS+"/") && !isBPFFS(BPFFS) {
		if err := unix.Mount("bpffs", BPFFS, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
			return fmt.Errorf("mount a bpf filesystem at %s: %w", BPFFS, err)
		}
	}
	if err := securedir.Ensure(dir); err != nil {
		return fmt.Errorf("make the pin directory: %w", err)
	}
	if !isBPFFS(dir) {
		_ = os.Remove(dir)
		return fmt.Errorf("%s is not on a bpf filesystem; mount one with: mount -t bpf bpffs %s", dir, BPFFS)
	}
	return nil
}

func isBPFFS(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
}

// Unload removes everything that is pinned in dir: first the links, connect
// hooks before the hooks that restore addresses, so that nothing is redirected
// without being restored; then the maps; then the directory. A directory that
// does not exist is no error.
func Unload(dir string) (removed int, err error) {
	// In somebody else's directory the names below could be files of others.
	err = securedir.Check(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(dir)
	}
	if err != nil {
		return 0, fmt.Errorf("read the pin directory: %w", err)
	}
	rank := func(name string) int {
		switch {
		case strings.HasPrefix(name, linkPrefix+"egd_connect"), strings.HasPrefix(name, linkPrefix+"egd_sendmsg"):
			return 0
		case strings.HasPrefix(name, linkPrefix), name == filterPin, name == steerPin:
			return 1
		}
		return 2
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == filterPin }) {
		err = removeAllFilters(func(int) bool { return false })
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == steerPin }) {
		err = errors.Join(err, removeSteering())
	}
	for r := 0; r <= 2; r++ {
		for _, e := range entries {
			if e.IsDir() || rank(e.Name()) != r {
				continue
			}
			if rmErr := os.Remove(filepath.Join(dir, e.Name())); rmErr != nil {
				err = errors.Join(err, rmErr)
				continue
			}
			removed++
		}
	}
	return removed, errors.Join(err, os.Remove(dir))
}

// Unload detaches and unpins everything of this Datapath. It must still be
// closed.
func (d *Datapath) Unload() error {
	_, err := Unload(d.opts.PinDir)
	return err
}
