// SPDX-License-Identifier: Apache-2.0

// Package container knows which cgroups Docker, podman and containerd give to containers,
// and whether a selector of a Workload selects one. Paths are below the root of the cgroup
// tree, without a leading slash. Pods are another package's, podcgroup.
//
// containerd by itself (ctr) puts a container at NAMESPACE/ID, both of which people choose
// (containerd oci.WithNamespacedCgroup). The namespace "default" is known by its name, others
// are what containerd says.
package container

import (
	"path"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/podcgroup"
)

// Runtime is what runs a container, as the API of a Workload spells it; "": the path of a
// cgroup does not tell.
type Runtime string

// The runtimes that are known.
const (
	Docker     Runtime = "docker"
	Podman     Runtime = "podman"
	Containerd Runtime = "containerd"
)

// Runtimes are all of them.
var Runtimes = []Runtime{Docker, Podman, Containerd}

// Instance is a container, as far as the path of its cgroup tells.
type Instance struct {
	// Path is that of the container's own cgroup; all below it are the container's too.
	Path string
	// ID is the runtime's; of one that is told by its namespace it is "NAMESPACE/ID".
	ID      string
	Runtime Runtime
}

// idLength is that of the ids which Docker, podman, nerdctl and CRI give.
const idLength = 64

// scopes are the names of cgroups before the id. The driver systemd ends them in ".scope",
// and podman has the same name without that with cgroupfs.
var scopes = []struct {
	prefix  string
	runtime Runtime
}{
	{"docker-", Docker},
	{"libpod-", Podman},
	{"cri-containerd-", Containerd},
	{"nerdctl-", Containerd},
} // as egd_name_kind of the kernel programs

// DefaultNamespace is containerd's, of which the kernel programs know as well.
const DefaultNamespace = "default" // as egd_name_kind

// Of tells which container a cgroup is of, where containerd has these namespaces besides
// DefaultNamespace. Of containers in containers it is the outer one: what is in there is
// made by whoever is in there. False: of none, or of a pod.
func Of(dir string, namespaces ...string) (Instance, bool) {
	if dir == "" || path.Clean("/"+dir) != "/"+dir {
		return Instance{}, false
	}
	if _, pod := podcgroup.Of(dir); pod {
		return Instance{}, false
	}
	names := strings.Split(dir, "/")
	for i, name := range names {
		parent := ""
		if i > 0 {
			parent = names[i-1]
		}
		if id, runtime, ok := parse(parent, name); ok {
			return Instance{Path: strings.Join(names[:i+1], "/"), ID: id, Runtime: runtime}, true
		}
		if isIdentifier(name) && isNamespace(names[:i], namespaces) {
			return Instance{Path: strings.Join(names[:i+1], "/"), ID: parent + "/" + name, Runtime: Containerd}, true
		}
	}
	return Instance{}, false
}

// isNamespace says whether the cgroup with these names is that of a namespace of containerd.
// Those that containerd names are at the root, where it puts them; the default one is
// wherever the kernel programs take it for one.
func isNamespace(names, namespaces []string) bool {
	last := len(names) - 1
	switch {
	case last < 0:
		return false
	case names[last] == DefaultNamespace:
		return !slices.ContainsFunc(names[:last], func(name string) bool {
			return !strings.HasSuffix(name, ".slice") && name != "docker" && name != podmanParent
		})
	}
	return last == 0 && slices.Contains(namespaces, names[0])
}

// maxIdentifier is the longest name of a container or namespace (containerd
// pkg/identifiers).
const maxIdentifier = 76

// isIdentifier says whether containerd lets a container or namespace have a name.
func isIdentifier(s string) bool {
	if len(s) == 0 || len(s) > maxIdentifier {
		return false
	}
	mark := true // begins with a letter or digit, and has no two marks side by side
	for i := range len(s) {
		c := s[i]
		switch {
		case '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
			mark = false
		case (c == '.' || c == '-' || c == '_') && !mark:
			mark = true
		default:
			return false
		}
	}
	return !mark
}

// parse reads the name of a container's cgroup in the cgroup parent.
func parse(parent, name string) (id string, runtime Runtime, ok bool) {
	base, scope := strings.CutSuffix(name, ".scope")
	for _, s := range scopes {
		id, ok := strings.CutPrefix(base, s.prefix)
		if ok && isID(id) && (scope || s.runtime == Podman) {
			return id, s.runtime, true
		}
	}
	switch {
	case scope || !isID(name) || parent == podmanParent: // podman's pods have ids as well
		return "", "", false
	case parent == "docker":
		return name, Docker, true
	}
	return name, "", true // containerd's namespace, or a parent that somebody chose
}

func isID(s string) bool {
	if len(s) != idLength {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// podmanParent is the cgroup of podman's containers with the driver cgroupfs.
const podmanParent = "libpod_parent"

// places are the names of cgroups in which runtimes put containers and nothing else but
// what belongs to these: those of the driver cgroupfs, podman's with systemd, and slices
// that people give to containers (Docker's --cgroup-parent).
var places = []string{"docker", podmanParent, "machine.slice", "docker.slice", "podman.slice", "containers.slice"}

// isPlace says whether only containers are in a cgroup: one of places, that of a pod of
// podman's, or that of a namespace of containerd's.
func isPlace(dir string, namespaces []string) bool {
	name := path.Base(dir)
	return isNamespace(strings.Split(dir, "/"), namespaces) || slices.Contains(places, name) || path.Base(path.Dir(dir)) == podmanParent && isID(name) ||
		strings.HasPrefix(name, "machine-libpod_pod_") && strings.HasSuffix(name, ".slice")
}

// Holds says whether a new container in a cgroup can be told by its name: in what has not
// already said what is in it, as a container does, or the cgroup of all pods.
func Holds(dir string, namespaces ...string) bool {
	if _, ok := Of(dir, namespaces...); ok {
		return false
	}
	return !slices.ContainsFunc(strings.Split(dir, "/"), podcgroup.IsRoot)
}
