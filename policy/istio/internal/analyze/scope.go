// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/internal/match"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// sidecars finds Sidecars that have no effect, or more of it than is likely
// meant.
func (a *analysis) sidecars() {
	if len(a.cfg.Sidecars) == 0 {
		return
	}
	visible := a.byNamespace()
	byLabel := map[[3]string][]*policy.Sidecar{} // by namespace and first label
	defaults := map[string]*policy.Sidecar{}     // those without a selector by namespace
	for _, sc := range a.cfg.Sidecars {
		s := a.part(sc.Ref)
		if sc.Selector == nil {
			if older := defaults[sc.Ref.Namespace]; older != nil {
				s.Warnf(s.n, "the Sidecars [%s %s] in namespace %q have no workload selector; of several the oldest applies: %s",
					older.Ref.Name, sc.Ref.Name, sc.Ref.Namespace, older.Ref.Name)
			} else {
				defaults[sc.Ref.Namespace] = sc
			}
		} else {
			k := slices.Min(slices.Collect(maps.Keys(sc.Selector)))
			key := [3]string{sc.Ref.Namespace, k, sc.Selector[k]}
			byLabel[key] = append(byLabel[key], sc)
		}
		a.sidecarHosts(s, sc, visible)
	}
	for _, w := range a.cfg.Workloads {
		a.selectedTwice(w, byLabel)
	}
}

// byNamespace are the declared hosts of each namespace; "*" has all.
func (a *analysis) byNamespace() map[string]*hostSet {
	services := map[string][]*policy.Service{}
	for _, s := range a.cfg.Services {
		services[s.Ref.Namespace] = append(services[s.Ref.Namespace], s)
	}
	out := map[string]*hostSet{"*": a.hosts}
	for ns, list := range services {
		out[ns] = newHostSet(list)
	}
	return out
}

// sidecarHosts checks what the listeners of a Sidecar leave visible.
func (a *analysis) sidecarHosts(s part, sc *policy.Sidecar, visible map[string]*hostSet) {
	if len(sc.Egress) == 0 {
		return
	}
	sees := false
	for _, e := range sc.Egress {
		out := map[policy.SidecarHost]bool{} // what is taken out again
		for _, h := range e.Hosts {
			if h.Not {
				h.Not, h.Namespace = false, a.meant(sc, h.Namespace)
				out[h] = true
			}
		}
		for j, h := range e.Hosts {
			if h.Not {
				continue
			}
			h.Namespace = a.meant(sc, h.Namespace)
			if visible[h.Namespace] != nil && visible[h.Namespace].find(h.Host).service != nil {
				sees = sees || !hidden(h, out)
				if !visible[h.Namespace].within(h.Host) {
					_, n := a.egress(s, e.Ref)
					a.narrow(s, n.At("hosts", j), h.Host, visible[h.Namespace].find(h.Host).service)
				}
				continue
			}
			// Namespaces without a ServiceEntry are named for what Kubernetes
			// has in them.
			if h.Host != "*" && !isKubernetes(h.Host) {
				_, n := a.egress(s, e.Ref)
				s.Warnf(n.At("hosts", j), "no ServiceEntry and no Service in namespace %s declares the host %s", h.Namespace, h.Host)
			}
		}
	}
	if !sees {
		s.Warnf(s.spec().KeyOf("egress"), "the Sidecar hides every ServiceEntry and Service: its workloads reach nothing")
	}
}

// meant is the namespace of an entry of a Sidecar: "." is the workload's, in the
// root namespace any.
func (a *analysis) meant(sc *policy.Sidecar, namespace string) string {
	switch {
	case namespace != ".":
		return namespace
	case sc.Ref.Namespace == a.cfg.Mesh.Root():
		return "*"
	}
	return sc.Ref.Namespace
}

// narrow warns about an entry of a Sidecar that only a wildcard's ServiceEntry
// is declared around.
func (a *analysis) narrow(s part, at *strictyaml.Node, h hostname.Pattern, around *policy.Service) {
	s.Warnf(at, "%s declares names around %s and none within it: egressd opens %s alone, and Istio imports nothing by this entry; "+
		"write a ServiceEntry for %s, or the wildcard here", nameOf(around.Ref), h, h, h)
}

// hidden says whether a whole entry of a Sidecar is taken out again.
func hidden(h policy.SidecarHost, out map[policy.SidecarHost]bool) bool {
	for _, ns := range [...]string{h.Namespace, "*"} {
		if out[policy.SidecarHost{Namespace: ns, Host: h.Host}] || out[policy.SidecarHost{Namespace: ns, Host: "*"}] {
			return true
		}
	}
	return false
}

// egress finds a listener of a Sidecar.
func (a *analysis) egress(s part, ref policy.Ref) (part, *strictyaml.Node) {
	for _, n := range s.spec("egress").List() {
		if n.Line == ref.Line && n.Col == ref.Column {
			return s, n
		}
	}
	return s, &strictyaml.Node{Line: ref.Line, Col: ref.Column}
}

func (a *analysis) selectedTwice(w *policy.Workload, byLabel map[[3]string][]*policy.Sidecar) {
	var names []string
	for _, k := range slices.Sorted(maps.Keys(w.Labels)) {
		for _, sc := range byLabel[[3]string{w.Namespace, k, w.Labels[k]}] {
			if match.Labels(sc.Selector, w.Labels) {
				names = append(names, sc.Ref.Name)
			}
		}
	}
	if len(names) > 1 {
		s := a.part(w.Ref)
		s.Warnf(s.n, "the Sidecars [%s] in namespace %q select the same workload %q; of several the oldest applies",
			strings.Join(names, " "), w.Namespace, w.Name)
	}
}

// authorizations finds AuthorizationPolicies that guard nothing, and rules
// that ask for what their targets never show.
func (a *analysis) authorizations() {
	if len(a.cfg.Authorizations) == 0 {
		return
	}
	services := map[string]*policy.Service{}
	inhabited := map[string]bool{a.cfg.Mesh.RootNamespace: true}
	for _, s := range a.cfg.Services {
		services[nameOf(s.Ref)] = s
		inhabited[s.Ref.Namespace] = true
	}
	for _, g := range a.cfg.Gateways {
		inhabited[g.Ref.Namespace] = true
	}
	for _, p := range a.cfg.Authorizations {
		s := a.part(p.Ref)
		switch {
		case len(p.Targets) > 0:
			a.targets(s, p, services)
		case p.Selector != nil:
			a.guarded(s, p)
		case !inhabited[p.Ref.Namespace]:
			s.Warnf(s.n, "no ServiceEntry, no Service and no Gateway is in namespace %s: the policy guards nothing (it belongs in the namespace of the destinations)", p.Ref.Namespace)
		}
	}
}

func (a *analysis) targets(s part, p *policy.AuthorizationPolicy, services map[string]*policy.Service) {
	for i, t := range p.Targets {
		at := s.spec("targetRefs", i)
		if one := s.spec().Get("targetRef"); one != nil {
			at = one
		}
		switch t.Kind {
		case "Gateway", "GatewayClass":
			s.Warnf(at, "%s of gateway.networking.k8s.io is not read by egressd: the policy does not guard it", t.Kind)
			continue
		}
		ref := policy.Ref{Kind: t.Kind, Namespace: p.Ref.Namespace, Name: t.Name}
		target := services[nameOf(ref)]
		if target == nil {
			s.Warnf(at.At("name"), "there is no %s: the policy does not guard it", nameOf(ref))
			continue
		}
		a.attributes(p, target)
	}
}

// attributes finds rules that ask a target for what it does not show.
func (a *analysis) attributes(p *policy.AuthorizationPolicy, target *policy.Service) {
	if len(target.Ports) == 0 || slices.ContainsFunc(target.Ports, func(q policy.Port) bool { return httpPorts&(1<<q.Protocol) != 0 }) {
		return
	}
	for _, r := range p.Rules {
		if !slices.ContainsFunc(r.To, model.AsksHTTP) {
			continue
		}
		s, n := a.rule(r.Ref)
		if p.Action == policy.AuthDeny {
			s.Warnf(n, "%s has no HTTP port, so that methods and paths are not known: the DENY rule denies whatever else it matches", nameOf(target.Ref))
		} else {
			s.Warnf(n, "%s has no HTTP port, so that methods and paths are not known: they never match", nameOf(target.Ref))
		}
	}
}

// guarded checks that some gateway has the labels of a policy.
func (a *analysis) guarded(s part, p *policy.AuthorizationPolicy) {
	if match.Labels(p.Selector, a.cfg.GatewaySelector) {
		return
	}
	for _, g := range a.cfg.Gateways {
		if match.Labels(p.Selector, g.Selector) {
			return
		}
	}
	labels := make([]string, 0, len(p.Selector))
	for _, k := range slices.Sorted(maps.Keys(p.Selector)) {
		labels = append(labels, k+"="+p.Selector[k])
	}
	s.Warnf(s.spec("selector"), "no Gateway is for the labels %s: the policy guards nothing (it counts where a connection starts; name destinations with targetRefs)",
		strings.Join(labels, ","))
}
