// SPDX-License-Identifier: Apache-2.0

package container

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// depth is how far below the root of the tree containers are looked for. The kernel holds
	// new ones in slices only, which are looked into however deep they are.
	depth = 6
	// maxVisited bounds the cgroups that are looked into, maxFound the containers,
	// and maxWatch the directories to be watched.
	maxVisited = 4096
	maxFound   = 4096
	maxWatch   = 256
	// maxUnexplained bounds the cgroups at the root that may be namespaces.
	maxUnexplained = 256
)

// Found is what there is of containers in a cgroup tree.
type Found struct {
	// Containers are by the paths of their cgroups.
	Containers map[string]Instance
	// Places are cgroups in which there are only containers: what comes there is one.
	// Beside is what is there all the same.
	Places, Beside []string
	// Namespaces are those of Places in which names tell nothing, containerd's.
	Namespaces []string
	// Watch are the directories in which containers come and go.
	Watch []string
	// Unexplained are cgroups at the root that may be those of namespaces of containerd which
	// nobody has told of.
	Unexplained []string
	// Incomplete says that there is more than is looked at.
	Incomplete bool
}

// Find looks for containers in the cgroup tree at root, where containerd has these
// namespaces. Left out is what is in cgroups in which somebody else than root may make
// others, for who can give a cgroup the name of a container could have its policy
// (containers of rootless runtimes are such); and pods.
func Find(root string, namespaces ...string) Found {
	f := Found{Containers: map[string]Instance{}}
	level, visited := []string{""}, 0
	for deep := 1; len(level) > 0; deep++ {
		var next []string
		for _, at := range level {
			if visited++; visited > maxVisited {
				f.Incomplete = true
				return f
			}
			for _, inner := range f.look(root, at, namespaces) {
				if deep < depth || strings.HasSuffix(inner, ".slice") {
					next = append(next, inner)
				}
			}
		}
		level = next
	}
	return f
}

// look looks into one cgroup, and returns those to look into next.
func (f *Found) look(root, at string, namespaces []string) (next []string) {
	entries, err := os.ReadDir(filepath.Join(root, at))
	if err != nil {
		return nil // gone meanwhile
	}
	place := isPlace(at, namespaces)
	if place {
		f.Places = append(f.Places, at)
		if isNamespace(strings.Split(at, "/"), namespaces) {
			f.Namespaces = append(f.Namespaces, at)
		}
	}
	has := false
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		inner := path.Join(at, e.Name())
		if c, ok := Of(inner, namespaces...); ok {
			has = true
			if len(f.Containers) >= maxFound {
				f.Incomplete = true
				continue // under the policy around it, or locked
			}
			f.Containers[inner] = c
			continue
		}
		if place && !isPlace(inner, namespaces) {
			f.Beside = append(f.Beside, inner)
		}
		if info, err := e.Info(); err == nil && onlyRoots(info) {
			next = append(next, inner)
			if at == "" && isIdentifier(inner) && !strings.HasSuffix(inner, ".slice") && !isPlace(inner, namespaces) && len(f.Unexplained) < maxUnexplained {
				f.Unexplained = append(f.Unexplained, inner)
			}
		}
	}
	if (has || place || at == "" || strings.HasSuffix(at, ".slice")) && len(f.Watch) < maxWatch {
		f.Watch = append(f.Watch, filepath.Join(root, at))
	}
	return next
}

// onlyRoots says whether only root can make something in a directory.
func onlyRoots(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Uid == 0 && st.Mode&0o022 == 0
}
