// SPDX-License-Identifier: Apache-2.0

package podcgroup

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

const (
	// depth is how far below the root of the tree the cgroup of all pods is looked for:
	// system.slice/docker-ID.scope/kubelet.slice/kubelet-kubepods.slice, and one more.
	depth = 5
	// maxVisited bounds the cgroups that are looked into.
	maxVisited = 4096
	// maxWatch bounds the directories to be watched.
	maxWatch = 256
)

// Find looks for the cgroups of all pods in the cgroup tree at dir, the nearest to the root
// first. Those in others, and those in cgroups that somebody else than root
// may make cgroups in, are left out. It also returns directories to watch for new ones; what
// comes elsewhere is found by looking again.
func Find(dir string) (roots []Root, watch []string) {
	level := []string{""}
	visited := 0
	for range depth {
		var next []string
		for _, at := range level {
			if visited++; visited > maxVisited {
				return roots, watch
			}
			if len(watch) < maxWatch {
				watch = append(watch, filepath.Join(dir, at))
			}
			entries, err := os.ReadDir(filepath.Join(dir, at))
			if err != nil {
				continue // gone meanwhile
			}
			for _, e := range entries {
				if !e.IsDir() {
					continue
				}
				info, err := e.Info()
				switch inner := path.Join(at, e.Name()); {
				case err != nil || !onlyRoots(info):
				case IsRoot(e.Name()):
					roots = append(roots, Root(inner))
				default:
					next = append(next, inner)
				}
			}
		}
		level = next
	}
	return roots, watch
}

// onlyRoots says whether only root can make something in a directory.
func onlyRoots(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && st.Mode&0o022 == 0
}

// Pods lists the pods that have a cgroup below a root, by their paths.
func (r Root) Pods(dir string) map[string]Pod {
	pods := map[string]Pod{}
	for _, class := range r.Classes() {
		entries, err := os.ReadDir(filepath.Join(dir, class))
		if err != nil {
			continue // the kubelet has not made it
		}
		for _, e := range entries {
			at := path.Join(class, e.Name())
			if p, ok := r.Of(at); ok && e.IsDir() {
				pods[at] = p
			}
		}
	}
	return pods
}
