// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
)

// tlsHost are the VirtualServices for workloads that have rules for TLS and a
// host, and where it stands in each.
type tlsHost struct {
	vs *policy.VirtualService
	at int
}

// unmatchedNames warns about names that are denied on a port for TLS because
// rules for TLS are about it, and none is for them: rules for TLS are complete.
func (a *analysis) unmatchedNames() {
	byHost := map[hostname.Pattern][]tlsHost{}
	for _, vs := range a.cfg.VirtualServices {
		if len(vs.TLS) == 0 || !slices.Contains(vs.Gateways, model.Mesh) {
			continue
		}
		for j, h := range vs.Hosts {
			byHost[h] = append(byHost[h], tlsHost{vs, j})
		}
	}
	if len(byHost) == 0 {
		return
	}
	index := hostname.NewIndex(maps.All(byHost))
	for _, s := range a.cfg.Services {
		if !s.External {
			continue
		}
		for _, h := range s.Hosts {
			var over []tlsHost
			walk := index.Walk(string(h))
			for list, ok := walk.Next(); ok; list, ok = walk.Next() {
				over = append(over, list...)
			}
			over = slices.DeleteFunc(over, func(t tlsHost) bool { return !t.vs.Hosts[t.at].Covers(h) })
			for _, p := range s.Ports {
				if p.Protocol.IsTLS() {
					a.unmatchedName(s, h, p.Number, over)
				}
			}
		}
	}
}

// unmatchedName looks at one port of a host; over are the rules that count
// there.
func (a *analysis) unmatchedName(s *policy.Service, h hostname.Pattern, port uint16, over []tlsHost) {
	var complete *tlsHost // has rules about the port for whoever asks
	var names []string
	for i := range over {
		t := &over[i]
		if !seen(t.vs.Export, s.Ref.Namespace) {
			continue
		}
		for _, r := range t.vs.TLS {
			for _, m := range r.Matches {
				if m.Port != 0 && m.Port != port || len(m.Gateways) > 0 && !slices.Contains(m.Gateways, model.Mesh) {
					continue
				}
				if slices.ContainsFunc(m.SNIHosts, func(n hostname.Pattern) bool { return n.Covers(h) }) {
					return
				}
				if complete == nil && len(m.SourceLabels) == 0 && m.SourceNamespace == "" {
					complete = t
				}
				for _, n := range m.SNIHosts {
					names = append(names, string(n))
				}
			}
		}
	}
	if complete == nil {
		return
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 3 {
		names = append(names[:3], "others")
	}
	at := a.part(complete.vs.Ref)
	list := strings.Join(names, ", ")
	if h.IsWildcard() {
		at.Warnf(at.spec("hosts", complete.at), "connections to names of %s that are not in sniHosts (%s) are denied on port %d: there are tls rules for the port, and what none of them matches is refused; "+
			"write a rule for the rest", h, list, port)
		return
	}
	at.Warnf(at.spec("hosts", complete.at), "connections to %s are denied on port %d: there are tls rules for the port, none of them has the name in sniHosts (%s), and what none matches is refused; "+
		"write a rule for it, or leave the host out", h, port, list)
}

// shadowed warns about rules for TLS and TCP that a VirtualService before this
// one, for the same hosts, gateways and namespaces, leaves nothing for. Of
// HTTP rules that is said where the host is.
func (a *analysis) shadowed() {
	type kept struct {
		ref  policy.Ref
		from *policy.VirtualService
	}
	first := map[string]kept{}
	// Within one VirtualService it is said there.
	before := func(vs *policy.VirtualService, keys ...string) (kept, bool) {
		for _, key := range keys {
			if k, ok := first[key]; ok && k.from != vs {
				return k, true
			}
		}
		return kept{}, false
	}
	check := func(vs *policy.VirtualService, scope string, ref policy.Ref, m *policy.L4Match, j, matches int) {
		key := scope + model.KeyOf(m)
		k, ok := before(vs, key, scope+model.KeyOf(&policy.L4Match{}))
		if !ok {
			if _, ok := first[key]; !ok {
				first[key] = kept{ref, vs}
			}
			return
		}
		s, n := a.rule(ref)
		if list := n.Get("match").List(); len(list) == matches && matches > 0 {
			n = list[j]
		}
		s.Warnf(n, "%s (%s) comes before and matches all that this does: this never applies", nameOf(k.ref), k.ref.Position())
	}
	for _, vs := range a.cfg.VirtualServices {
		if model.FromGatewayAPI(vs.Ref.Kind) || len(vs.TLS)+len(vs.TCP) == 0 {
			continue
		}
		hosts := slices.Sorted(slices.Values(vs.Hosts))
		scope := fmt.Sprintf("%s %v %v %v ", vs.Ref.Namespace, hosts, slices.Sorted(slices.Values(vs.Gateways)), vs.Export)
		for _, r := range vs.TLS {
			for j, m := range r.Matches {
				check(vs, scope+"tls ", r.Ref, m, j, len(r.Matches))
			}
		}
		for _, r := range vs.TCP {
			for j, m := range or(r.Matches, &policy.L4Match{}) {
				check(vs, scope+"tcp ", r.Ref, m, j, len(r.Matches))
			}
		}
	}
}
