// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// foreignNames warns about ServiceEntries for all under the name of another
// namespace's Kubernetes Service: they count for their own workloads alone.
func (a *analysis) foreignNames() {
	for _, s := range a.cfg.Services {
		if !s.External || a.staysHome(s) {
			continue
		}
		for j, h := range s.Hosts {
			if k := a.owner(h, s); k != nil {
				at := a.part(s.Ref)
				at.Warnf(at.spec("hosts", j), "%s is the name of %s (%s): the entry counts for workloads of namespace %s alone, and exportTo: [\".\"] says so. "+
					"An entry of namespace %s, or of the root namespace, counts for all",
					h, nameOf(k.Ref), k.Ref.Position(), s.Ref.Namespace, k.Ref.Namespace)
			}
		}
	}
}

// owner returns the Kubernetes Service of another namespace whose name a host
// of a ServiceEntry is; nil when there is none, or the entry may have its name.
func (a *analysis) owner(h hostname.Pattern, s *policy.Service) *policy.Service {
	if a.named == nil {
		a.named = map[hostname.Pattern]*policy.Service{}
		for _, k := range a.cfg.Services {
			if k.External {
				continue
			}
			for _, h := range k.Names() {
				if a.named[h] == nil {
					a.named[h] = k
				}
			}
		}
	}
	k := a.named[h]
	if k == nil || s.Ref.Namespace == k.Ref.Namespace || s.Ref.Namespace == a.cfg.Mesh.Root() {
		return nil
	}
	return k
}

// staysHome says whether no other namespace sees a service.
func (a *analysis) staysHome(s *policy.Service) bool {
	v := s.Export
	if fallback := a.cfg.Mesh.DefaultServiceExport; !v.Limited && !v.Everybody && fallback != nil {
		v = *fallback
	}
	return v.Limited && !slices.ContainsFunc(v.Namespaces, func(n string) bool { return n != "." && n != s.Ref.Namespace })
}
