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
func (n *base) namedService(host string) *Service {
	if k := n.kube[host]; k != nil {
		return k
	}
	if short, ok := strings.CutSuffix(host, ".svc"); ok {
		name, namespace, _ := strings.Cut(short, ".")
		return n.borrow[[2]string{namespace, name}]
	}
	return nil
}

// serviceNames are the hosts that are names of a Kubernetes Service.
func (s *Service) serviceNames() []hostname.Pattern {
	return append(slices.Clone(s.Hosts), hostname.Pattern(s.Ref.Name+"."+s.Ref.Namespace+".svc"))
}

// owner returns the Kubernetes Service because of whose name a service does not
// count for a host, nil when it counts; home is the namespace of the workloads.
// The name of a Kubernetes Service is its namespace's: ServiceEntries of others
// count for their own workloads alone, but those of the root namespace for all.
// Istio is as strict: a Service comes before any ServiceEntry, so that nobody
// takes its name (pilot/pkg/model SidecarScope).
func (n *base) owner(home string, host hostname.Pattern, s *Service) *Service {
	k := n.namedService(string(host))
	if ns := s.Ref.Namespace; k == nil || s.ruled || ns == k.Ref.Namespace || ns == home || ns == n.cfg.rootNamespace() {
		return nil
	}
	return k
}

// counting leaves out the services that do not count for a host.
func (h *hostEdit) counting(host hostname.Pattern, services []*Service) []*Service {
	return slices.DeleteFunc(services, func(s *Service) bool { return h.b.base.owner(h.scope.home, host, s) != nil })
}

// owners has the names built anew of the Kubernetes Services that came and
// went: ServiceEntries that did not count, and are not known of the host before,
// may do so now.
func (h *hostEdit) owners() {
	if h.old == emptyPolicy {
		return // all of them are to come
	}
	anew := map[hostname.Pattern]bool{}
	for _, s := range slices.Concat(h.b.removed, h.b.added) {
		if s.External {
			continue
		}
		for _, p := range s.serviceNames() {
			if h.b.base.contends(p, s.Ref.Namespace) || h.scope.sidecar.limits() {
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
func (n *base) contends(host hostname.Pattern, namespace string) bool {
	by, _ := n.declared.Get(host)
	return slices.ContainsFunc(by, func(other string) bool { return other != namespace })
}
