// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/egressd/egressd/internal/cgroup"
)

// UnitError says that something is no name of a systemd unit.
type UnitError struct{ Err error }

func (e *UnitError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *UnitError) Unwrap() error { return e.Err }

// Named lists the directories of cgroups and systemd units, which need not be there:
// without any it is the whole node.
func Named(ctx context.Context, cgroups, units []string) ([]string, error) {
	root, err := cgroup.Root()
	if err != nil {
		return nil, err
	}
	dirs := slices.Clone(cgroups)
	for _, unit := range units {
		path, err := cgroup.Unit(unit, func(name string) map[string]string { return cgroup.AskSystemd(ctx, name) })
		if err != nil {
			return nil, &UnitError{err}
		}
		dirs = append(dirs, filepath.Join(root, path))
	}
	if len(dirs) == 0 {
		dirs = []string{root}
	}
	return dirs, nil
}

// Whole says whether what is captured is everything.
func Whole(captured []string) (bool, error) {
	root, err := cgroup.Root()
	return err == nil && slices.ContainsFunc(captured, func(dir string) bool { return sameFile(root, dir) }), err
}

func sameFile(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}
