// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/egressd/egressd/internal/podcgroup"
	"github.com/egressd/egressd/policy"
)

const (
	// ModeLabel says the mode of a pod, or of all pods of a namespace: enforce,
	// audit or off.
	ModeLabel = "egressd.dev/mode"
	// configHash is the annotation of a static pod's mirror in the API with the UID by
	// which the kubelet knows the pod, and names its cgroup
	// (kubernetes pkg/kubelet/types).
	configHash = "kubernetes.io/config.hash"
	// suppress is the annotation for warnings that were seen, and modeOff the code of
	// the one that a Workload's mode is off: of a pod that is said by a label.
	suppress = "egressd.dev/suppress"
	modeOff  = "EGD0805"
)

// pod is what its Workload is made of.
type pod struct {
	uid     types.UID // that its cgroup has
	named   types.UID // that the API server has
	class   core.PodQOSClass
	account string
	labels  map[string]string
	// by is the UID of what made it, "": nothing did, made when that was, and ends says
	// that it is being deleted.
	by   types.UID
	made time.Time
	ends bool
}

// workloadFile is the file of a Workload.
type workloadFile struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   workloadMeta `json:"metadata"`
	Spec       workloadSpec `json:"spec"`
}

type workloadMeta struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type workloadSpec struct {
	Cgroups        []string    `json:"cgroups"`
	ServiceAccount string      `json:"serviceAccount,omitempty"`
	Mode           policy.Mode `json:"mode"`
}

// renderPod keeps what counts of a pod. One that has ended has no processes, and one
// without a UID no cgroup.
func renderPod(_ *table, v any) *object {
	p, ok := v.(*core.Pod)
	if !ok {
		return nil
	}
	o := &object{}
	o.Namespace, o.Name = p.Namespace, p.Name
	uid := p.UID
	if isMirror(p) {
		uid = types.UID(p.Annotations[configHash])
	}
	if uid == "" || p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed {
		return o
	}
	o.pod = &pod{
		uid: uid, named: p.UID, class: p.Status.QOSClass, account: p.Spec.ServiceAccountName, labels: p.Labels,
		made: p.CreationTimestamp.Time, ends: p.DeletionTimestamp != nil,
	}
	if by := meta.GetControllerOf(p); by != nil {
		o.pod.by = by.UID
	}
	return o
}

// staticUID is the form of the UIDs that a kubelet gives to static pods: MD5, in
// hexadecimal. Those that the API server gives have dashes.
var staticUID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// isMirror says whether a pod is the mirror of a static one. Who may create pods can
// write any annotation: so a mirror must be its node's, and cannot claim the UID of
// a pod that the API server has made.
func isMirror(p *core.Pod) bool {
	_, mirror := p.Annotations[core.MirrorPodAnnotationKey]
	return mirror && staticUID.MatchString(p.Annotations[configHash]) &&
		slices.ContainsFunc(p.OwnerReferences, func(r meta.OwnerReference) bool {
			return r.Kind == "Node" && r.Name == p.Spec.NodeName && r.Controller != nil && *r.Controller
		})
}

// workload makes the Workload of a pod. There is none until its namespace is known:
// what that says of the mode could be stricter than the flag.
func (s *Informer) workload(o *object) (data []byte, problem string) {
	ns := s.tables[namespaceKind].objects["/"+o.Namespace]
	cgroups := s.o.Cgroups(o.pod.uid, o.pod.class)
	if ns == nil || len(cgroups) == 0 {
		return nil, ""
	}
	mode, problem := s.mode(o, ns)
	w := workloadFile{
		APIVersion: "egressd.dev/v1", Kind: "Workload",
		Metadata: workloadMeta{Namespace: o.Namespace, Name: o.Name, Labels: o.pod.labels},
		Spec:     workloadSpec{Cgroups: cgroups, ServiceAccount: o.pod.account, Mode: mode},
	}
	if mode == policy.Off {
		w.Metadata.Annotations = map[string]string{suppress: modeOff}
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil, err.Error()
	}
	return data, problem
}

// mode is a pod's: what its label says, else that of its namespace, else off for one of
// the system's, else the flag's. A label that says no mode means enforce: who wrote it
// wanted something stricter or weaker than what is usual, and only one is safe.
func (s *Informer) mode(o, namespace *object) (mode policy.Mode, problem string) {
	for _, by := range []struct {
		labels map[string]string
		whose  string
	}{{o.pod.labels, "the pod"}, {namespace.labels, "the namespace"}} {
		text, ok := by.labels[ModeLabel]
		if !ok {
			continue
		}
		if err := mode.UnmarshalText([]byte(text)); err != nil {
			return policy.Enforce, fmt.Sprintf("label %s of %s is %q, not enforce, audit or off; the pod is in mode enforce", ModeLabel, by.whose, text)
		}
		return mode, ""
	}
	if slices.Contains(s.o.SystemNamespaces, o.Namespace) {
		return policy.Off, ""
	}
	return s.o.Mode, ""
}

// renameModes brings the pods of a namespace up to date with its labels.
func (s *Informer) renameModes(namespace string) {
	t := s.tables[podKind]
	for _, o := range t.objects {
		if o.Namespace == namespace && o.pod != nil {
			old := *o
			t.show(&old, o)
		}
	}
}

// podCgroups are the paths of a pod's cgroup; agent/workload finds out where it is on this
// node.
func podCgroups(uid types.UID, class core.PodQOSClass) []string {
	if path := podcgroup.Path(string(uid), string(class)); path != "" {
		return []string{path}
	}
	return nil
}
