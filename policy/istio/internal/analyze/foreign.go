// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
)

// foreignRules warns about VirtualServices that act on what workloads of
// another namespace send to a host which that namespace declares and has no
// rules for. Istio lets them.
func (a *analysis) foreignRules() {
	ruled := map[hostname.Pattern]map[string]bool{} // the namespaces that have rules for a host
	for _, vs := range a.cfg.VirtualServices {
		if slices.Contains(vs.Gateways, model.Mesh) {
			for _, h := range vs.Hosts {
				if ruled[h] == nil {
					ruled[h] = map[string]bool{}
				}
				ruled[h][vs.Ref.Namespace] = true
			}
		}
	}
	if len(ruled) == 0 {
		return
	}
	owners := map[hostname.Pattern][]*policy.Service{}
	for _, s := range a.cfg.Services {
		if !s.External {
			continue
		}
		for _, h := range s.Hosts {
			if ruled[h] != nil {
				owners[h] = append(owners[h], s)
			}
		}
	}
	for _, vs := range a.cfg.VirtualServices {
		if !slices.Contains(vs.Gateways, model.Mesh) || model.FromGatewayAPI(vs.Ref.Kind) {
			continue
		}
		for j, h := range vs.Hosts {
			a.foreignRule(vs, j, h, owners[h], ruled[h])
		}
	}
}

func (a *analysis) foreignRule(vs *policy.VirtualService, j int, h hostname.Pattern, owners []*policy.Service, ruled map[string]bool) {
	said := map[string]bool{}
	for _, o := range owners {
		ns := o.Ref.Namespace
		if ns == vs.Ref.Namespace || said[ns] || ruled[ns] || !seen(vs.Export, ns) {
			continue
		}
		said[ns] = true
		at := a.part(vs.Ref)
		at.Warnf(at.spec("hosts", j), "namespace %s declares %s (%s %s) and has no rules for it: these act on what its workloads send there, and lead it to %s; "+
			"exportTo: [\".\"] keeps them to namespace %s",
			ns, h, nameOf(o.Ref), o.Ref.Position(), leadsTo(vs), vs.Ref.Namespace)
	}
}

// seen says whether a namespace sees an object that exports as v.
func seen(v policy.Visibility, namespace string) bool {
	return !v.Limited || slices.Contains(v.Namespaces, namespace)
}

// keptHome says whether only its own namespace sees a VirtualService.
func keptHome(vs *policy.VirtualService) bool {
	return vs.Export.Limited && slices.Equal(vs.Export.Namespaces, []string{vs.Ref.Namespace})
}

// leadsTo names the destinations of rules.
func leadsTo(vs *policy.VirtualService) string {
	found := map[string]bool{}
	add := func(list []*policy.WeightedDestination) {
		for _, d := range list {
			found[d.Destination.Host] = true
		}
	}
	for _, r := range vs.HTTP {
		add(r.Route)
		if len(r.Route) == 0 {
			found["an answer of its own"] = true
		}
	}
	for _, r := range vs.TLS {
		add(r.Route)
	}
	for _, r := range vs.TCP {
		add(r.Route)
	}
	names := slices.Sorted(maps.Keys(found))
	if len(names) > 3 {
		names = append(names[:3], "others")
	}
	return strings.Join(names, ", ")
}
