// SPDX-License-Identifier: Apache-2.0

// Package podcgroup knows which cgroups a kubelet and a container runtime give to pods:
// where they all lie, which one a pod has, and of which pod a cgroup is. Paths are
// below the root of the cgroup tree, without a leading slash.
package podcgroup

import (
	"path"
	"slices"
	"strings"
)

// The classes of quality of service, as the API spells them (core/v1
// PodQOSClass). The kubelet has a cgroup for each of the last two, and none for the first.
const (
	Guaranteed = "Guaranteed"
	Burstable  = "Burstable"
	BestEffort = "BestEffort"
)

const (
	// base is the name of the cgroup of all pods, with the driver cgroupfs.
	base = "kubepods"
	// slice ends the names that the driver systemd gives.
	slice = ".slice"
	// podPrefix comes before the UID in the name of a pod's cgroup.
	podPrefix = "pod"
	// maxUID bounds the length of a UID: the kernel's names have 255 bytes.
	maxUID = 200
)

// classes are the parts of names that stand for a class.
var classes = []struct{ name, class string }{{"burstable", Burstable}, {"besteffort", BestEffort}}

// Root is the path of the cgroup in which all pods of a node are. How its last name is
// written says which driver the kubelet has (--cgroup-driver): kubepods is
// cgroupfs's, kubepods.slice systemd's, which puts the names of the slices around a slice
// into its name: kubelet.slice/kubelet-kubepods.slice with --cgroup-root=/kubelet.
type Root string

// Usual are the roots of kubelets without --cgroup-root, and with the one that kind
// gives.
var Usual = []Root{"kubepods", "kubepods.slice", "kubelet/kubepods", "kubelet.slice/kubelet-kubepods.slice"}

// Path is the cgroup of a pod as a Workload names it, by its UID and its class, whatever
// driver the kubelet has and wherever its root is (Root.Moved); "" where these are none.
func Path(uid, qos string) string { return Usual[0].Path(uid, qos) }

// Moved is where a pod's cgroup is that is named by one of the usual roots; any other path
// stays as it is.
func (r Root) Moved(dir string) string {
	p, ok := Of(dir)
	if !ok || !slices.Contains(Usual, p.Root) || dir != p.Root.Path(p.UID, p.Class) {
		return dir
	}
	return r.Path(p.UID, p.Class)
}

// IsRoot says whether a cgroup of this name may be the one of all pods.
func IsRoot(name string) bool {
	return name == base || name == base+slice || strings.HasSuffix(name, "-"+base+slice)
}

// prefix begins the names of the slices in the root; false: the driver is cgroupfs.
func (r Root) prefix() (string, bool) { return strings.CutSuffix(path.Base(string(r)), slice) }

// Classes are the cgroups below which pods' cgroups are: the root itself, and those of
// the classes, be they there or not.
func (r Root) Classes() []string {
	all := []string{string(r)}
	for _, c := range classes {
		all = append(all, path.Join(string(r), r.class(c.name)))
	}
	return all
}

// class is the name of the cgroup of a class.
func (r Root) class(name string) string {
	if prefix, ok := r.prefix(); ok {
		return prefix + "-" + name + slice
	}
	return name
}

// Path is the cgroup of a pod, by its UID and its class; "" where these are none.
// The UID of a static pod is not that of its mirror in the API: it is in the annotation
// kubernetes.io/config.hash.
func (r Root) Path(uid, qos string) string {
	if !isUID(uid) {
		return ""
	}
	class := ""
	for _, c := range classes {
		if c.class == qos {
			class = c.name
		}
	}
	if class == "" && qos != Guaranteed {
		return ""
	}
	prefix, systemd := r.prefix()
	if !systemd {
		return path.Join(string(r), class, podPrefix+uid)
	}
	dir := string(r)
	if class != "" {
		prefix += "-" + class
		dir = path.Join(dir, prefix+slice)
	}
	return path.Join(dir, prefix+"-"+podPrefix+strings.ReplaceAll(uid, "-", "_")+slice)
}

// isUID says whether a string can be a pod's UID: a UUID, or the 32 hexadecimal digits that
// a kubelet gives to a static pod. No other is put into a path or a pattern.
func isUID(s string) bool {
	if s == "" || len(s) > maxUID || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

// Pod is what the path of a cgroup tells of the pod that it is of.
type Pod struct {
	Root Root
	// UID is the pod's, Class its quality of service.
	UID, Class string
	// Container is the container's id; "": the cgroup is no container's alone.
	Container string
}

// Of tells of which pod a cgroup is: the pod's own, or one in it. Of pods in pods
// (a node that runs in a pod) it is the outer one. False: of none.
func Of(dir string) (Pod, bool) {
	if path.Clean("/"+dir) != "/"+dir {
		return Pod{}, false
	}
	names := strings.Split(dir, "/")
	for i, name := range names {
		if IsRoot(name) {
			return Root(strings.Join(names[:i+1], "/")).parse(names[i+1:])
		}
	}
	return Pod{}, false
}

// Of tells the same of a cgroup below a root.
func (r Root) Of(dir string) (Pod, bool) {
	rest, ok := strings.CutPrefix(dir, string(r)+"/")
	if !ok || path.Clean(dir) != dir {
		return Pod{}, false
	}
	return r.parse(strings.Split(rest, "/"))
}

// parse reads the names below the root.
func (r Root) parse(names []string) (Pod, bool) {
	p := Pod{Root: r, Class: Guaranteed}
	prefix, systemd := r.prefix()
	for _, c := range classes {
		if len(names) > 0 && names[0] == r.class(c.name) {
			p.Class, names, prefix = c.class, names[1:], prefix+"-"+c.name
			break
		}
	}
	if len(names) == 0 {
		return Pod{}, false
	}
	uid, ok := names[0], true
	if systemd {
		if uid, ok = strings.CutPrefix(uid, prefix+"-"); ok {
			uid, ok = strings.CutSuffix(uid, slice)
		}
		// The kubelet writes "_" for "-", which parts slices.
		ok = ok && !strings.Contains(uid, "-")
		uid = strings.ReplaceAll(uid, "_", "-")
	}
	if !ok {
		return Pod{}, false
	}
	if p.UID, ok = strings.CutPrefix(uid, podPrefix); !ok || !isUID(p.UID) {
		return Pod{}, false
	}
	if len(names) > 1 {
		p.Container = container(names[1])
	}
	return p, true
}

// container reads a container's id from the name of its cgroup: the id alone
// (cgroupfs), cri-containerd-ID.scope, crio-ID.scope, docker-ID.scope, libpod-ID.scope.
// CRI-O's monitor of a container (crio-conmon-ID.scope) is none.
func container(name string) string {
	name = strings.TrimSuffix(name, ".scope")
	runtime, id := "", name
	if i := strings.LastIndexByte(name, '-'); i >= 0 {
		runtime, id = name[:i], name[i+1:]
	}
	if strings.HasSuffix(runtime, "conmon") || len(id) < 12 || len(id) > 64 {
		return ""
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return ""
		}
	}
	return id
}
