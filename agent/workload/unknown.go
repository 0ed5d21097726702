// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/cgroup"
	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// unknownWait is how long nobody is told of a pod that no Workload describes: what describes
// it is under way.
const unknownWait = 10 * time.Second

// PodOptions are about pods that no Workload describes.
type PodOptions struct {
	// SystemNamespaces are those whose pods are free until a Workload describes them, if
	// the kubelet's directories of logs tell their names: a node comes up without an API
	// server.
	SystemNamespaces []string
	// Logs is where these directories are; "": podcgroup.DefaultLogs.
	Logs string
}

// unknownPods are the pods that no Workload describes, by UID. The lock of the workloads guards it.
type unknownPods struct {
	since map[string]time.Time
	told  map[string]bool
	err   error // of the directories of logs, as it was said last
}

// podDirs are the directories to be watched for pods, their names, and the cgroup of all.
func (w *Binding) podDirs() []string {
	root := w.capture.podRoot()
	if w.capture.pods == nil {
		return nil
	}
	dirs := w.capture.awaited()
	if root == "" {
		return dirs
	}
	for _, class := range root.Classes() {
		dirs = append(dirs, filepath.Join(w.root, class))
	}
	if len(w.opts.Pods.SystemNamespaces) > 0 {
		dirs = append(dirs, w.logs())
	}
	return dirs
}

func (w *Binding) logs() string { return cmp.Or(w.opts.Pods.Logs, podcgroup.DefaultLogs) }

// bindUnknown adds pods of system namespaces that no Workload describes, and notes
// the others. described are the directories that one does.
func (w *Binding) bindUnknown(at place, described map[string][]int, table map[uint64]loader.WorkloadState, bound map[uint32]Bound) error {
	root := w.capture.podRoot()
	if root == "" {
		return nil
	}
	for _, class := range root.Classes() {
		if described[filepath.Join(w.root, class)] != nil {
			return nil // all of them
		}
	}
	unknown := map[string]podcgroup.Pod{}
	for path, p := range root.Pods(w.root) {
		if dir := filepath.Join(w.root, path); described[dir] == nil && at.holds(dir) {
			unknown[dir] = p
		}
	}
	maps.DeleteFunc(unknown, w.isOwn)
	free := w.free(unknown)
	for _, dir := range slices.Sorted(maps.Keys(free)) {
		id, err := cgroup.ID(dir)
		name := free[dir]
		if err != nil || !w.mayBeLax(dir, name) {
			continue
		}
		one := loader.WorkloadState{ID: w.numbers.of(name), Policy: policy.UnknownWorkload, Mode: policy.Off}
		if one.ID == 0 {
			continue
		}
		delete(unknown, dir)
		table[id] = one
		bound[one.ID] = Bound{WorkloadState: one, Name: name, Dirs: append(bound[one.ID].Dirs, dir)}
	}
	w.noteUnknown(unknown)
	return nil
}

// isOwn says whether a pod is the one that egressd is in.
func (w *Binding) isOwn(dir string, _ podcgroup.Pod) bool {
	if w.own == 0 {
		return false
	}
	own := false
	_ = cgroup.Walk(dir, nil, func(_ string, ids []uint64) { own = own || ids[0] == w.own }) // gone meanwhile
	return own
}

// free are the names of those pods, by their directories, that are of system namespaces.
func (w *Binding) free(unknown map[string]podcgroup.Pod) map[string]string {
	if len(unknown) == 0 || len(w.opts.Pods.SystemNamespaces) == 0 {
		return nil
	}
	names, err := podcgroup.Logged(w.logs())
	if err != nil && (w.unknown.err == nil || w.unknown.err.Error() != err.Error()) {
		w.log.Warn("the names of pods that the API has not told of cannot be read, so that those of system namespaces are denied until it does", "error", err)
	}
	w.unknown.err = err
	free := map[string]string{}
	for dir, p := range unknown {
		if n, ok := names[p.UID]; ok && slices.Contains(w.opts.Pods.SystemNamespaces, n.Namespace) {
			free[dir] = n.Namespace + "/" + n.Name
		}
	}
	return free
}

// noteUnknown remembers which pods are not known, and tells of those that stay so.
func (w *Binding) noteUnknown(unknown map[string]podcgroup.Pod) {
	u, now := &w.unknown, time.Now()
	since, told := map[string]time.Time{}, map[string]bool{}
	var uids []string
	for dir, p := range unknown {
		uids = append(uids, p.UID)
		since[p.UID], told[p.UID] = now, u.told[p.UID]
		if was, ok := u.since[p.UID]; ok {
			since[p.UID] = was
		}
		if !told[p.UID] && now.Sub(since[p.UID]) >= unknownWait {
			told[p.UID] = true
			w.log.Warn("no Workload describes a pod, so that it may reach nothing (workload-unknown); see whether the API server answers and has the pod on this node",
				"uid", p.UID, "mode", w.opts.Mode.String(), "cgroup", dir)
		}
	}
	u.since, u.told = since, told
	slices.Sort(uids)
	w.capture.setUnknown(uids)
}

// PodOf tells of a cgroup by its id which pod and container it is of; "": of none, or it
// is gone. Of a container without a pod it tells why nothing is known of it.
func (w *Binding) PodOf(id uint64) string {
	rel, err := filepath.Rel(w.root, cgroup.PathOf(id))
	if err != nil {
		return ""
	}
	p, ok := w.capture.podRoot().Of(rel)
	switch {
	case !ok:
		return w.containerAt(rel)
	case p.Container == "":
		return "pod " + p.UID
	}
	return "pod " + p.UID + ", container " + p.Container
}
