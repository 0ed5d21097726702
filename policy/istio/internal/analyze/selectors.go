// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/internal/match"
	"github.com/egressd/egressd/policy/istio/internal/model"
)

// asked is what a match asks of where something comes from.
type asked struct {
	port            uint16
	gateways        []string
	sourceLabels    map[string]string
	sourceNamespace string
}

// never finds matches that nothing can have, whatever comes.
func (a *analysis) never(vs *policy.VirtualService, in *arrivals) {
	alive, dead := false, 0
	check := func(ref policy.Ref, matches []asked, kinds protocols, what string) {
		if len(matches) == 0 {
			alive = true
		}
		for j, m := range matches {
			why := a.misses(vs, in, m, kinds, what)
			if why == "" {
				alive = true
				continue
			}
			dead++
			s, n := a.rule(ref)
			if list := n.Get("match").List(); len(list) == len(matches) {
				n = list[j]
			}
			s.Warnf(n, "the match never holds: %s", why)
		}
	}
	for _, r := range vs.HTTP {
		var all []asked
		for _, m := range r.Matches {
			all = append(all, asked{m.Port, m.Gateways, m.SourceLabels, m.SourceNamespace})
		}
		check(r.Ref, all, httpPorts, "HTTP")
	}
	for _, r := range vs.TLS {
		check(r.Ref, askedL4(r.Matches), tlsPorts, "TLS")
	}
	for _, r := range vs.TCP {
		check(r.Ref, askedL4(r.Matches), tcpPorts, "TCP that is neither HTTP nor TLS")
	}
	if !alive && dead > 0 {
		s := a.part(vs.Ref)
		s.Warnf(s.n, "no rule of the VirtualService can ever apply: what is said of its hosts elsewhere, or nothing, applies in its place")
	}
}

func askedL4(matches []*policy.L4Match) []asked {
	var out []asked
	for _, m := range matches {
		out = append(out, asked{m.Port, m.Gateways, m.SourceLabels, m.SourceNamespace})
	}
	return out
}

// misses says why a match never holds; "" when it may.
func (a *analysis) misses(vs *policy.VirtualService, in *arrivals, m asked, kinds protocols, what string) string {
	if len(m.gateways) > 0 && !slices.ContainsFunc(m.gateways, func(g string) bool { return slices.Contains(vs.Gateways, g) }) {
		return fmt.Sprintf("it is for gateways (%s) that the VirtualService is not bound to", strings.Join(m.gateways, ", "))
	}
	if m.port != 0 {
		all, known := in.on(m.gateways, kinds, 0) // none at all is said of the list
		if known && len(all) > 0 && all[m.port] == 0 {
			return fmt.Sprintf("no host and no Gateway of the VirtualService has a port %d for %s", m.port, what)
		}
	}
	return a.nobody(vs, m)
}

// nobody says that no workload is what a match asks for, as far as workloads
// are described. A match that a gateway can have is not about them.
func (a *analysis) nobody(vs *policy.VirtualService, m asked) string {
	if len(a.cfg.Workloads) == 0 || len(m.sourceLabels) == 0 && (m.sourceNamespace == "" || m.sourceNamespace == policy.DefaultNamespace) {
		return "" // whoever is not described is in the default namespace
	}
	gateways := m.gateways
	if len(gateways) == 0 {
		gateways = vs.Gateways
	}
	if slices.ContainsFunc(gateways, func(g string) bool { return g != model.Mesh }) {
		return ""
	}
	if a.labelled == nil {
		a.labelled = labelled(a.cfg.Workloads)
	}
	first := [2]string{}
	for k, v := range m.sourceLabels {
		if l := [2]string{k, v}; len(a.labelled[l]) < len(a.labelled[first]) {
			first = l
		}
	}
	if slices.ContainsFunc(a.labelled[first], func(w *policy.Workload) bool {
		return (m.sourceNamespace == "" || w.Namespace == m.sourceNamespace) && match.Labels(m.sourceLabels, w.Labels)
	}) {
		return ""
	}
	var text []string
	for _, k := range slices.Sorted(maps.Keys(m.sourceLabels)) {
		text = append(text, k+"="+m.sourceLabels[k])
	}
	if m.sourceNamespace != "" {
		text = append(text, "namespace "+m.sourceNamespace)
	}
	return "no Workload is what it asks for (" + strings.Join(text, ", ") + ")"
}

// labelled finds workloads by each of their labels; all of them by none.
func labelled(workloads []*policy.Workload) map[[2]string][]*policy.Workload {
	out := map[[2]string][]*policy.Workload{{}: workloads}
	for _, w := range workloads {
		for k, v := range w.Labels {
			out[[2]string{k, v}] = append(out[[2]string{k, v}], w)
		}
	}
	return out
}
