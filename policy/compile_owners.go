// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
)

// namedService returns the Kubernetes Service whose name a host is: its
// absolute name, or that without the cluster's domain; nil for none. What is
// shorter is no more than a guess: "web.dev" is a name of the internet, too.
func (n *index) namedService(host string) *Service {
	if k := n.kube[host]; k != nil {
		return k
	}
	if short, ok := strings.CutSuffix(host, ".svc"); ok {
		name, namespace, _ := strings.Cut(short, ".")
		return n.borrow[[2]string{namespace, name}]
	}
	return nil
}

// owner returns the Kubernetes Service because of whose name a service does not
// count for a host, nil when it counts; home is the namespace of the workloads.
func (n *index) owner(home string, host hostname.Pattern, s *Service) *Service {
	if k := n.namedService(string(host)); k != nil && !n.mayHave(k, home, s) {
		return k
	}
	return nil
}

// mayHave says whether a service may have the name of a Kubernetes Service for
// the workloads of the namespace home. The name is its namespace's:
// ServiceEntries of others count for their own workloads alone, but those of
// the root namespace for all. Istio is as strict: a Service comes before any
// ServiceEntry, so that nobody takes its name (pilot/pkg/model SidecarScope).
func (n *index) mayHave(k *Service, home string, s *Service) bool {
	ns := s.Ref.Namespace
	return byRules(s) || ns == k.Ref.Namespace || ns == home || ns == n.cfg.Mesh.Root()
}

// counting leaves out the services that do not count for a host.
func (h *hostEdit) counting(host hostname.Pattern, services []*Service) []*Service {
	return slices.DeleteFunc(services, func(s *Service) bool { return h.b.index.owner(h.scope.home, host, s) != nil })
}

// owners has the names built anew of the Kubernetes Services that came and
// went: ServiceEntries that did not count, and are not known of the host before,
// may do so now.
func (h *hostEdit) owners() {
	if h.old == emptyPolicy || h.sibling {
		return // all of them are to come, or none
	}
	anew := map[hostname.Pattern]bool{}
	for _, s := range slices.Concat(h.removed, h.added) {
		if s.External {
			continue
		}
		for _, p := range s.Names() {
			if h.b.index.contends(p, s.Ref.Namespace) || h.scope.sidecar.limits() {
				anew[p], h.decls[p] = true, nil
			}
		}
	}
	if len(anew) == 0 {
		return
	}
	for _, s := range h.b.cfg.Services {
		if !s.External || !slices.ContainsFunc(s.Hosts, func(p hostname.Pattern) bool { return anew[p] || p.IsWildcard() }) {
			continue
		}
		for _, v := range h.b.view(h.scope, s) {
			for _, p := range v.Hosts {
				if anew[p] {
					h.decls[p] = append(h.decls[p], v)
				}
			}
		}
	}
}

// contends says whether ServiceEntries of other namespaces than one declare
// exactly a host.
func (n *index) contends(host hostname.Pattern, namespace string) bool {
	by, _ := n.declared.Get(host)
	return slices.ContainsFunc(by, func(other string) bool { return other != namespace })
}

// covered finds the names of Kubernetes Services that wildcards of other
// namespaces cover.
func (n *index) covered() map[string]*Service {
	out := map[string]*Service{}
	whole := map[string][]string{} // by what is behind the first label
	for _, k := range n.kube {
		for _, name := range k.Names() {
			if name.IsWildcard() {
				continue
			}
			_, parent, _ := strings.Cut(string(name), ".")
			if _, ok := whole[parent]; !ok {
				whole[parent] = n.covering(parent)
			}
			by := whole[parent]
			if n.partial > 0 {
				by = append(slices.Clone(by), n.coveringPart(string(name))...)
			}
			if slices.ContainsFunc(by, func(other string) bool { return other != k.Ref.Namespace }) {
				out[string(name)] = k
			}
		}
	}
	return out
}

// covering lists the namespaces that declare a wildcard which covers all hosts
// of a domain.
func (n *index) covering(domain string) []string {
	var out []string
	for domain != "" {
		by, _ := n.declared.Get(hostname.Pattern("*." + domain))
		out = append(out, by...)
		_, domain, _ = strings.Cut(domain, ".")
	}
	return out
}

// coveringPart is covering for wildcards that begin within a label.
func (n *index) coveringPart(name string) []string {
	var out []string
	for i := 1; i < len(name); i++ {
		if name[i] != '.' {
			by, _ := n.declared.Get(hostname.Pattern("*" + name[i:]))
			out = append(out, by...)
		}
	}
	return out
}

// isPartial says whether a host is a wildcard that begins within a label.
func isPartial(h hostname.Pattern) bool { return h.IsWildcard() && len(h) > 1 && h[1] != '.' }

// reserve finds the names that are no names of the wildcards which cover them:
// those of Kubernetes Services, where the wildcards are of other namespaces.
func (p *Policy) reserve(covered map[string]*Service) {
	for name, k := range covered {
		r := &reservedName{owner: k.Ref.Namespace}
		w := p.names.Walk(name)
		for h, ok := w.Next(); ok; h, ok = w.Next() {
			if h.Pattern.IsWildcard() && !p.index.mayHave(k, p.class.home, h.services[0]) {
				r.from = append(r.from, h.Pattern)
			}
		}
		if len(r.from) > 0 {
			if p.reserved == nil {
				p.reserved = map[string]*reservedName{}
			}
			p.reserved[name] = r
		}
	}
}
