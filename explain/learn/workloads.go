// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// class is what policies do not tell apart: the workloads of a namespace with the same
// labels.
type class struct {
	namespace string
	labels    map[string]string
	workloads []string // sorted
	rows      []*row
	needs     map[need]bool
}

// need is a port of a destination.
type need struct {
	host string // of an object
	port uint16
	udp  bool
}

// generatedLabels are those that a controller gives each pod, or each generation of
// pods, anew.
var generatedLabels = []string{
	"pod-template-hash", "controller-revision-hash", "pod-template-generation", "statefulset.kubernetes.io/pod-name",
	"apps.kubernetes.io/pod-index", "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name",
}

// classesOf puts rows into the classes of their workloads, sorted. What nobody
// described is in the default namespace without labels. Where identities is nil, nobody
// has said who is described: then NAMESPACE/NAME says the namespace.
func classesOf(rows []*row, identities []policy.Identity) []*class {
	who := map[string]policy.Identity{}
	for _, id := range identities {
		who[id.Key()] = id
	}
	byKey := map[string]*class{}
	for _, r := range rows {
		id := policy.Identity{Namespace: policy.DefaultNamespace}
		if known, ok := who[r.workload]; ok {
			id = known
		} else if ns, _, ok := strings.Cut(r.workload, "/"); ok && identities == nil && isNamespace(ns) {
			id.Namespace = ns
		}
		labels := maps.Clone(id.Labels)
		maps.DeleteFunc(labels, func(k, _ string) bool { return slices.Contains(generatedLabels, k) })
		k := id.Namespace + " " + labelText(labels)
		c := byKey[k]
		if c == nil {
			c = &class{namespace: id.Namespace, labels: labels, needs: map[need]bool{}}
			byKey[k] = c
		}
		c.rows = append(c.rows, r)
		if !slices.Contains(c.workloads, r.workload) {
			c.workloads = append(c.workloads, r.workload) // rows are sorted by workload
		}
	}
	out := make([]*class, 0, len(byKey))
	for _, k := range slices.Sorted(maps.Keys(byKey)) {
		out = append(out, byKey[k])
	}
	return out
}

// isNamespace says whether text before a slash is a namespace: "exec/make" is a command.
func isNamespace(s string) bool {
	ok := s != "" && len(s) <= 63 && s != "exec"
	for _, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	return ok && strings.Trim(s, "-") == s
}

func labelText(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(&b, "%q=%q,", k, labels[k])
	}
	return b.String()
}

// within says whether a selector of a class selects those of another.
func (c *class) within(o *class) bool {
	for k, v := range c.labels {
		if o.labels[k] != v {
			return false
		}
	}
	return true
}

// share gives classes of which one selector selects the other what both need: which
// Sidecar counts for the second is then no question.
func share(classes []*class) {
	for again := true; again; {
		again = false
		for _, c := range classes {
			for _, o := range classes {
				if c == o || len(c.labels) == 0 || len(o.labels) == 0 || !c.within(o) || maps.Equal(c.needs, o.needs) {
					continue
				}
				maps.Copy(c.needs, o.needs)
				maps.Copy(o.needs, c.needs)
				again = true
			}
		}
	}
}

// differ says whether classes need different things.
func differ(classes []*class) bool {
	for _, c := range classes[1:] {
		if !maps.Equal(c.needs, classes[0].needs) {
			return true
		}
	}
	return false
}

// sidecar is what is written of networking.istio.io/v1 Sidecar.
type sidecar struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Metadata   metadata    `yaml:"metadata"`
	Spec       sidecarSpec `yaml:"spec"`
}

type metadata struct {
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace,omitempty"`
}

type sidecarSpec struct {
	WorkloadSelector *selector  `yaml:"workloadSelector,omitempty"`
	Egress           []listener `yaml:"egress"`
}

type selector struct {
	Labels map[string]string `yaml:"labels"`
}

type listener struct {
	Port  *listenerPort `yaml:"port,omitempty"`
	Hosts []string      `yaml:"hosts"`
}

type listenerPort struct {
	Number   uint16 `yaml:"number"`
	Protocol string `yaml:"protocol"`
	Name     string `yaml:"name"`
}

// sidecarOf is the Sidecar that shows a class what it needs, and of what the namespace
// declares (ports by host) nothing else. protocol is that of a port.
func (c *class) sidecarOf(name string, declared map[string]map[need]bool, protocol func(need) policy.Protocol) sidecar {
	s := sidecar{APIVersion: apiVersion, Kind: "Sidecar", Metadata: metadata{name, namespaceField(c.namespace)}}
	if len(c.labels) > 0 {
		s.Spec.WorkloadSelector = &selector{c.labels}
	}
	whole := true // whether each host that it needs it needs with all ports
	hosts := map[string]bool{}
	byPort := map[uint16][]need{}
	for n := range c.needs {
		hosts[n.host] = true
		byPort[n.port] = append(byPort[n.port], n)
		for d := range declared[n.host] {
			whole = whole && c.needs[d]
		}
	}
	if whole {
		s.Spec.Egress = []listener{{Hosts: shown(hosts)}}
		return s
	}
	for _, number := range slices.Sorted(maps.Keys(byPort)) {
		hosts, spoken := map[string]bool{}, policy.ProtocolUnset
		for i, n := range byPort[number] {
			hosts[n.host] = true
			if p := protocol(n); i == 0 || p == spoken {
				spoken = p
			} else {
				spoken = policy.ProtocolTCP // it decides nothing here
			}
		}
		s.Spec.Egress = append(s.Spec.Egress, listener{
			Port:  &listenerPort{number, spoken.String(), fmt.Sprintf("%s-%d", strings.ToLower(spoken.String()), number)},
			Hosts: shown(hosts),
		})
	}
	return s
}

// shown are hosts as a Sidecar of their namespace has them.
func shown(hosts map[string]bool) []string {
	var out []string
	for _, h := range slices.Sorted(maps.Keys(hosts)) {
		out = append(out, "./"+h)
	}
	return out
}

// namespaceField is a namespace as metadata has it.
func namespaceField(ns string) string {
	if ns == policy.DefaultNamespace {
		return ""
	}
	return ns
}
