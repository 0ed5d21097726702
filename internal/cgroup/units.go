// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	sliceSuffix = ".slice"
	// sliceDepth is how deep slices are looked into.
	sliceDepth = 12
)

// unitTypes are the ends of the names of units that have processes.
var unitTypes = []string{sliceSuffix, ".service", ".scope", ".socket", ".mount", ".swap"}

// Units finds the cgroups of systemd's units, of the system's manager, with the names of
// the units by the paths below root, and the directories to be watched for others. They are
// in slices, and in slices only: what is in another unit is made by whoever is in that.
// Slices in which somebody else than root may make cgroups are not looked into.
func Units(root string) (units map[string]string, watch []string) {
	units = map[string]string{}
	level := []string{""}
	for range sliceDepth {
		var next []string
		for _, at := range level {
			watch = append(watch, filepath.Join(root, at))
			entries, err := os.ReadDir(filepath.Join(root, at))
			if err != nil {
				continue // gone meanwhile
			}
			for _, e := range entries {
				inner := path.Join(at, e.Name())
				name, ok := UnitOf(inner)
				if !ok || !e.IsDir() {
					continue
				}
				units[inner] = name
				if info, err := e.Info(); err == nil && strings.HasSuffix(name, sliceSuffix) && onlyRoots(info) {
					next = append(next, inner)
				}
			}
		}
		level = next
	}
	return units, watch
}

// UnitOf is the name of the unit that has the cgroup of a path below the root; false: it is
// no unit's, as far as the path tells.
func UnitOf(dir string) (name string, ok bool) {
	names := strings.Split(dir, "/")
	last := len(names) - 1
	for _, n := range names[:last] {
		if !strings.HasSuffix(n, sliceSuffix) {
			return "", false
		}
	}
	name = names[last]
	if bare, ok := strings.CutPrefix(name, "_"); ok { // systemd's cg_unescape
		name = bare
	}
	return name, slices.ContainsFunc(unitTypes, func(t string) bool { return strings.HasSuffix(name, t) && len(name) > len(t) })
}

// onlyRoots says whether only root can make something in a directory.
func onlyRoots(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && st.Mode&0o022 == 0
}
