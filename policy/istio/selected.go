// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"net/netip"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/internal/match"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// workloadIndex finds WorkloadEntries by namespace and labels.
type workloadIndex struct {
	all   map[string][]*selectable    // by namespace
	label map[[3]string][]*selectable // by namespace, key and value
}

// selectable is a WorkloadEntry with the labels of its metadata, which have
// precedence, and of its spec.
type selectable struct {
	decoded[networking.WorkloadEntry]
	labels map[string]string
}

// selectable returns the index, which is built when it is first asked for.
func (l *loader) selectable() *workloadIndex {
	if l.byLabel != nil {
		return l.byLabel
	}
	w := &workloadIndex{all: map[string][]*selectable{}, label: map[[3]string][]*selectable{}}
	for _, d := range l.workloadEntries {
		s := &selectable{d, maps.Clone(d.v.Labels)}
		if s.labels == nil {
			s.labels = map[string]string{}
		}
		maps.Copy(s.labels, d.meta.Labels)
		ns := d.ref.Namespace
		w.all[ns] = append(w.all[ns], s)
		for k, v := range s.labels {
			key := [3]string{ns, k, v}
			w.label[key] = append(w.label[key], s)
		}
	}
	l.byLabel = w
	return w
}

// find returns the WorkloadEntries of a namespace that selector selects, in
// the order of reading.
func (w *workloadIndex) find(namespace string, selector map[string]string) []*selectable {
	candidates := w.all[namespace]
	for k, v := range selector {
		if fewer := w.label[[3]string{namespace, k, v}]; len(fewer) < len(candidates) {
			candidates = fewer
		}
	}
	var out []*selectable
	for _, s := range candidates {
		if match.Labels(selector, s.labels) {
			out = append(out, s)
		}
	}
	return out
}

// selected takes the endpoints that a workloadSelector selects.
func (l *loader) selected(e *entry) {
	s := e.v.WorkloadSelector
	if s == nil {
		return
	}
	at := e.spec().KeyOf("workloadSelector")
	e.Selector(e.spec("workloadSelector", "labels"), s.Labels,
		"service entry: workload selector specified without labels, will be applied to all services in namespace")
	if e.spec().Has("endpoints") {
		e.Errorf(at, "only one of WorkloadSelector or Endpoints is allowed in Service Entry")
		return
	}
	switch e.out.Resolution {
	case policy.ResolutionStatic:
	case policy.ResolutionDNS, policy.ResolutionDNSRoundRobin:
		e.Warnf(at, "workloadSelector should not be set when resolution mode is %s", e.out.Resolution)
	default:
		e.Warnf(at, "workloadSelector should not be set when resolution mode is %s: it selects nothing", e.out.Resolution)
		return
	}
	found := l.selectable().find(e.ref.Namespace, s.Labels)
	if len(found) == 0 {
		e.Warnf(at, "workloadSelector selects no WorkloadEntry of namespace %s (Pods are not read)", e.ref.Namespace)
	}
	if len(found) > 1 && e.out.Resolution == policy.ResolutionDNSRoundRobin {
		e.Warnf(at, "there must only be 0 or 1 endpoint for resolution mode DNS_ROUND_ROBIN; of the %d selected the first is used", len(found))
		found = found[:1]
	}
	for _, w := range found {
		e.take(at, w)
	}
}

// take adds a selected WorkloadEntry. What is wrong with it in itself is said
// where it is; here it is left out.
func (e *entry) take(at *strictyaml.Node, w *selectable) {
	out := describe(w.v, w.labels)
	maps.DeleteFunc(out.Ports, func(name string, _ uint16) bool {
		return !e.names[name] || w.v.Ports[name] < 1 || w.v.Ports[name] > 65535
	})
	a, err := netip.ParseAddr(w.v.Address)
	socket, unix := strings.CutPrefix(w.v.Address, model.UnixPrefix)
	what := "WorkloadEntry " + w.ref.Namespace + "/" + w.ref.Name
	switch {
	case w.v.Address == "":
		return
	case err == nil && a.Zone() == "" && !a.Is4In6():
		out.Addr = a
	case unix && unixAddress(socket) == "" && e.out.Resolution == policy.ResolutionStatic:
		if len(e.v.Ports) != 1 {
			e.Warnf(at, "%s is not used: exactly 1 service port required for unix endpoints", what)
			return
		}
		out.Unix = socket
	case e.isDNS() && err != nil && !unix:
		if out.Host, err = check.FQDN(w.v.Address); err != nil {
			return
		}
	default:
		e.Warnf(at, "%s is not used: its address %q is not a valid IP address, which resolution %s needs", what, w.v.Address, e.out.Resolution)
		return
	}
	e.out.Endpoints = append(e.out.Endpoints, out)
}
