// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/policy/internal/authz"
	"github.com/egressd/egressd/policy/internal/match"
)

// scope is what a group of workloads has in common: everything that rules ask
// of an identity has the same answer for all of them, so that one policy
// serves the group.
type scope struct {
	// key names the answers. Equal keys have equal scopes within one Config,
	// and the same key in the next Config is the same group.
	key string
	// identity is one of the group; whoever asks it what the key does not
	// hold asks something that the group does not agree on.
	identity Identity
	// home is the namespace whose services come first; "": it makes no
	// difference which.
	home string
	// shares says that home matters where one address is learned for names of
	// several namespaces.
	shares   bool
	sidecar  sidecarScope
	outbound OutboundMode
	// outboundRule is the object that says outbound; nil: none does.
	outboundRule *Ref
	// retries is the mesh's default; nil: the safe default.
	retries *Retries
}

// scopes finds the groups of all workloads: the group of the zero Identity
// first, then in order of the workloads. of has each workload's index.
func (b *builder) scopes() (all []*scope, of []int) {
	b.ask = b.questions()
	index := map[string]int{}
	add := func(id Identity) int {
		s := b.scope(id, b.ask)
		i, ok := index[s.key]
		if !ok {
			i = len(all)
			index[s.key] = i
			all = append(all, s)
		}
		return i
	}
	add(Identity{})
	for _, w := range b.cfg.Workloads {
		of = append(of, add(w.Identity))
	}
	return all, of
}

// questions are what the rules of a Config ask of identities.
type questions struct {
	// namespaces are those that see or mean something else than others do.
	namespaces map[string]bool
	// sharing are those among them that base.sharing has.
	sharing    map[string]bool
	labels     []map[string]string // selectors of rules
	sources    []*AuthSource
	conditions []*AuthCondition
}

func (b *builder) questions() *questions {
	q := &questions{namespaces: b.base.distinguished(), sharing: b.base.sharing()}
	sees := func(v Visibility) {
		for _, n := range v.Namespaces {
			q.namespaces[n] = true
		}
	}
	for _, v := range []*Visibility{b.cfg.Mesh.DefaultServiceExport, b.cfg.Mesh.DefaultVirtualServiceExport, b.cfg.Mesh.DefaultDestinationRuleExport} {
		if v != nil && v.Limited { // every namespace may see its own
			for _, w := range b.cfg.Workloads {
				q.namespaces[cmp.Or(w.Namespace, DefaultNamespace)] = true
			}
			for _, g := range b.cfg.Gateways {
				q.namespaces[g.Ref.Namespace] = true
			}
		}
	}
	for _, n := range slices.Concat(b.disputed(), b.takers(), b.insiders()) {
		q.namespaces[n] = true
	}
	source := func(namespace string, labels map[string]string) {
		if namespace != "" {
			q.namespaces[namespace] = true
		}
		if len(labels) > 0 {
			q.labels = append(q.labels, labels)
		}
	}
	for _, vs := range b.cfg.VirtualServices {
		sees(vs.Export)
		for _, r := range vs.HTTP {
			for _, m := range r.Matches {
				source(m.SourceNamespace, m.SourceLabels)
			}
		}
		for _, r := range vs.TLS {
			for _, m := range r.Matches {
				source(m.SourceNamespace, m.SourceLabels)
			}
		}
		for _, r := range vs.TCP {
			for _, m := range r.Matches {
				source(m.SourceNamespace, m.SourceLabels)
			}
		}
	}
	for _, dr := range b.cfg.DestinationRules {
		sees(dr.Export)
		// Rules of the client's own namespace come first.
		source(dr.Ref.Namespace, dr.Selector)
	}
	for _, a := range b.cfg.Authorizations {
		for _, r := range a.Rules {
			q.sources = append(q.sources, r.From...)
			for _, c := range r.When {
				if strings.HasPrefix(c.Key, "source.") && c.Key != "source.ip" {
					q.conditions = append(q.conditions, c)
				}
			}
		}
	}
	return q
}

// scope answers the questions for one identity.
func (b *builder) scope(id Identity, q *questions) *scope {
	id.Namespace = cmp.Or(id.Namespace, DefaultNamespace)
	return b.scopeWith(id, b.sidecarOf(id), q)
}

// scopeWith is scope for an identity that has another Sidecar, or none.
func (b *builder) scopeWith(id Identity, sidecar sidecarScope, q *questions) *scope {
	s := &scope{identity: id, sidecar: sidecar, outbound: b.cfg.Mesh.Outbound, retries: b.cfg.Mesh.Retries}
	if b.cfg.Mesh.Ref != (Ref{}) {
		s.outboundRule = &b.cfg.Mesh.Ref
	}
	var key strings.Builder
	if q.namespaces[id.Namespace] {
		s.home, s.shares = id.Namespace, q.sharing[id.Namespace]
		key.WriteString(id.Namespace)
	}
	if s.sidecar.Sidecar != nil {
		key.WriteString(" sidecar " + s.sidecar.Ref.Namespace + "/" + s.sidecar.Ref.Name)
		if s.sidecar.local != "" {
			key.WriteString(" for " + s.sidecar.local)
		}
		if s.sidecar.Outbound != nil {
			s.outbound, s.outboundRule = *s.sidecar.Outbound, &s.sidecar.Ref
		}
	}
	answer := func(yes bool) {
		bit := byte('0')
		if yes {
			bit = '1'
		}
		key.WriteByte(bit)
	}
	key.WriteString(" labels ")
	for _, l := range q.labels {
		answer(match.Labels(l, id.Labels))
	}
	key.WriteString(" sources ")
	for _, src := range q.sources {
		answer(authz.SourceIs(src, id, b.trustDomain()))
	}
	for _, c := range q.conditions {
		answer(authz.ConditionIs(c, id, b.trustDomain()))
	}
	key.WriteString(" " + strconv.Itoa(int(s.outbound)))
	s.key = key.String()
	return s
}

// sidecarOf returns the Sidecar that counts for an identity: one of its
// namespace that selects it, else one of its namespace for all, else that of
// the root namespace; the zero value for none.
func (b *builder) sidecarOf(id Identity) sidecarScope {
	var own, root *Sidecar
	for _, s := range b.cfg.Sidecars {
		switch {
		case s.Ref.Namespace == id.Namespace && len(s.Selector) > 0:
			if match.Labels(s.Selector, id.Labels) {
				return b.localized(s, id.Namespace)
			}
		case s.Ref.Namespace == id.Namespace && own == nil:
			own = s
		case s.Ref.Namespace == b.rootNamespace() && len(s.Selector) == 0 && root == nil:
			root = s
		}
	}
	return b.localized(cmp.Or(own, root), id.Namespace)
}

// sidecarIn is a Sidecar, and a namespace whose workloads it is for.
type sidecarIn struct {
	sidecar   *Sidecar
	namespace string
}

// localized returns a Sidecar for the workloads of a namespace, whose own "."
// is theirs. It is made once, so that it is the same in the next snapshot.
func (b *builder) localized(sc *Sidecar, namespace string) sidecarScope {
	if sc == nil {
		return sidecarScope{}
	}
	own := func(sh SidecarHost) bool { return sh.Namespace == "." }
	if !slices.ContainsFunc(sc.Egress, func(e SidecarEgress) bool { return slices.ContainsFunc(e.Hosts, own) }) {
		return sidecarScope{Sidecar: sc}
	}
	k := sidecarIn{sc, namespace}
	out := b.base.sidecars[k]
	if out == nil && b.old != nil {
		out = b.old.sidecars[k]
	}
	if out == nil {
		one := *sc
		one.Egress = slices.Clone(sc.Egress)
		for i := range one.Egress {
			e := &one.Egress[i]
			e.Hosts = slices.Clone(e.Hosts)
			for j := range e.Hosts {
				if own(e.Hosts[j]) {
					e.Hosts[j].Namespace = namespace
				}
			}
		}
		out = &one
	}
	b.base.sidecars[k] = out
	return sidecarScope{out, namespace}
}

func (b *builder) rootNamespace() string { return b.cfg.Mesh.Root() }
func (b *builder) trustDomain() string   { return cmp.Or(b.cfg.Mesh.TrustDomain, "cluster.local") }

// visible says whether an object of a namespace is visible to another. A nil
// fallback is everybody; it counts for objects that say nothing themselves.
func visible(v Visibility, namespace string, fallback *Visibility) bool {
	v = effective(v, fallback)
	return !v.Limited || slices.Contains(v.Namespaces, namespace)
}

// effective is what counts of what an object says and a fallback.
func effective(v Visibility, fallback *Visibility) Visibility {
	if !v.Limited && !v.Everybody && fallback != nil {
		return *fallback
	}
	return v
}

// authScope returns the Compiler of Authorizers for a scope.
func (b *builder) authScope(sc *scope) *authz.Compiler {
	s := b.authScopes[sc]
	if s == nil {
		s = b.auth.For(sc.identity)
		b.authScopes[sc] = s
	}
	return s
}

// sees says whether a service is exported to the workloads of a scope.
func (b *builder) sees(sc *scope, s *Service) bool {
	return visible(s.Export, sc.identity.Namespace, inNamespace(b.cfg.Mesh.DefaultServiceExport, s.Ref.Namespace))
}

// view returns what a scope sees of a service: the service itself, parts of
// it, or nothing. Parts are made once, so that the same part of the same
// service is the same pointer in the next snapshot.
func (b *builder) view(sc *scope, s *Service) []*Service {
	if !b.sees(sc, s) {
		return nil
	}
	if !sc.sidecar.limits() {
		return []*Service{s}
	}
	k := part{sc.sidecar, s}
	p, ok := b.base.parts[k]
	if !ok {
		if p, ok = b.base.oldParts[k]; !ok {
			p = sc.sidecar.narrow(s)
		}
		b.base.parts[k] = p
	}
	return p
}

// oldView returns what a scope of the snapshot before saw of a service.
func (b *builder) oldView(sc *scope, s *Service) []*Service {
	if p, ok := b.base.oldParts[part{sc.sidecar, s}]; ok && sc.sidecar.Sidecar != nil {
		return p
	}
	return b.view(sc, s)
}

// part is a service as a Sidecar lets it be seen.
type part struct {
	sidecar sidecarScope
	service *Service
}

// inNamespace reads "." of a default as the namespace of the object it is used for.
func inNamespace(v *Visibility, namespace string) *Visibility {
	if v == nil || !slices.Contains(v.Namespaces, ".") {
		return v
	}
	own := *v
	own.Namespaces = slices.Clone(v.Namespaces)
	own.Namespaces[slices.Index(own.Namespaces, ".")] = namespace
	return &own
}
