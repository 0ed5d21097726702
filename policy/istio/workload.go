// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"strings"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/analyze"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// workloadSpec is the spec of a Workload (egressd.dev/v1): what Kubernetes
// would know of a pod, for processes on a node without it. Its labels are
// those of its metadata.
type workloadSpec struct {
	// Cgroups are patterns of paths below the root of the cgroup v2 tree.
	Cgroups []string `json:"cgroups"`
	// Containers select containers by what their runtime says of them.
	Containers []containerSelector `json:"containers"`
	// SystemdUnits and SystemdSlices are names of units, wherever their cgroups are.
	SystemdUnits  []string `json:"systemdUnits"`
	SystemdSlices []string `json:"systemdSlices"`
	// ServiceAccount is part of the principal that rules ask for.
	ServiceAccount string `json:"serviceAccount"`
	// Mode is enforce, audit or off; the node's when it is left out.
	Mode strictyaml.Word `json:"mode"`
}

func decodeWorkload(o *object, d *draft) {
	o.topLevel()
	var spec workloadSpec
	if !strictyaml.DecodeGo(o.spec(), &spec, "spec", &o.Reporter) {
		return
	}
	w := &policy.Workload{Ref: o.ref, Identity: policy.Identity{
		Name: o.meta.Name, Namespace: o.meta.Namespace, ServiceAccount: spec.ServiceAccount, Labels: o.meta.Labels,
	}}
	if a := spec.ServiceAccount; a != "" && !check.IsSubdomain(a) {
		o.Errorf(o.spec("serviceAccount"), "serviceAccount: %q is not a DNS-1123 subdomain", a)
	}
	if len(spec.Cgroups)+len(spec.Containers)+len(spec.SystemdUnits)+len(spec.SystemdSlices) == 0 {
		o.Errorf(o.spec("cgroups"), "name at least one cgroup, such as system.slice/foo.service (cgroups), or a container (containers), a unit (systemdUnits) or a slice (systemdSlices)")
	}
	for i, c := range spec.Cgroups {
		if err := checkCgroup(c); err != nil {
			o.Errorf(o.spec("cgroups", i), "cgroups: %s", err)
			continue
		}
		w.Cgroups = append(w.Cgroups, c)
	}
	o.selectors(&spec, w)
	modes := []policy.Mode{policy.Enforce, policy.Audit, policy.Off}
	for _, m := range modes {
		if string(spec.Mode) == m.String() {
			w.Mode = &m
		}
	}
	if w.Mode == nil && spec.Mode != "" {
		names := []string{"enforce", "audit", "off"}
		o.Errorf(o.spec("mode"), "mode: expected one of %s, got %q%s", strings.Join(names, ", "), spec.Mode, strictyaml.DidYouMean(string(spec.Mode), names))
	}
	if w.Mode != nil && *w.Mode == policy.Off {
		o.Warnf(o.spec("mode"), "mode off: nothing is decided for these processes, every destination is open to them")
	}
	d.take = func(l *loader) { l.workloads = append(l.workloads, w) }
}

// translateWorkloads looks at them together as well: some of what is wrong then
// is an error.
func translateWorkloads(l *loader, cfg *policy.Config) {
	cfg.Workloads = l.workloads
	analyze.Workloads(l.workloads, l.files(new([]*batch)))
}

// cgroupMount is where the tree is on nearly every node, for people who
// write paths of files.
const cgroupMount = "/sys/fs/cgroup/"

// checkCgroup checks a pattern of cgroups.
func checkCgroup(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("a path is empty; for every process write **")
	case strings.HasPrefix(s, cgroupMount):
		return fmt.Errorf("%q: paths are relative to the root of the cgroup tree; write %q", s, strings.TrimPrefix(s, cgroupMount))
	case s == "/" || s+"/" == cgroupMount:
		return fmt.Errorf("%q: paths are relative to the root of the cgroup tree; for every process write **", s)
	case s[0] == '/':
		return fmt.Errorf("%q: paths are relative to the root of the cgroup tree; write %q", s, strings.TrimLeft(s, "/"))
	case strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return fmt.Errorf("%q has a control character", s)
	case s[len(s)-1] == '/':
		return fmt.Errorf("%q ends in '/'; write %q, or %q for what is below it as well", s, strings.TrimRight(s, "/"), s+"**")
	}
	segments := strings.Split(s, "/")
	for i, segment := range segments {
		switch {
		case segment == "":
			return fmt.Errorf("%q has an empty segment", s)
		case segment == "." || segment == "..":
			return fmt.Errorf("%q has a segment %q", s, segment)
		case segment == "**" && i < len(segments)-1:
			return fmt.Errorf("%q: ** may only be the last segment", s)
		case segment != "**" && strings.Contains(segment, "**"):
			return fmt.Errorf("%q: ** must be a segment by itself", s)
		}
	}
	return nil
}
