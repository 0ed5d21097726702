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

// identityClass is what a group of workloads has in common: everything that rules ask
// of an identity has the same answer for all of them, so that one policy
// serves the group.
type identityClass struct {
	// key names the answers. Equal keys have equal classes within one Config,
	// and the same key in the next Config is the same group.
	key string
	// view is the part of the key that says what is visible: classes with one
	// view see the same services and rules, and differ in what these ask.
	view string
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

// identityClasses finds the groups of all workloads: the group of the zero Identity
// first, then in order of the workloads. of has each workload's index.
func (b *builder) identityClasses() (all []*identityClass, of []int) {
	b.selectors = b.selectorsInUse()
	index := map[string]int{}
	add := func(id Identity) int {
		s := b.identityClass(id, b.selectors)
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

// identityClass says which class an identity is of.
func (b *builder) identityClass(id Identity, q *selectorsInUse) *identityClass {
	id.Namespace = cmp.Or(id.Namespace, DefaultNamespace)
	return b.classWith(id, b.sidecarOf(id), q)
}

// classWith is the class for an identity that has another Sidecar, or none.
func (b *builder) classWith(id Identity, sidecar sidecarScope, q *selectorsInUse) *identityClass {
	s := &identityClass{identity: id, sidecar: sidecar, outbound: b.cfg.Mesh.Outbound, retries: b.cfg.Mesh.Retries}
	if b.cfg.Mesh.Ref != (Ref{}) {
		s.outboundRule = &b.cfg.Mesh.Ref
	}
	var view strings.Builder
	if q.namespaces[id.Namespace] {
		s.home, s.shares = id.Namespace, q.sharing[id.Namespace]
		view.WriteString(id.Namespace)
	}
	if s.sidecar.Sidecar != nil {
		view.WriteString(" sidecar " + s.sidecar.Ref.Namespace + "/" + s.sidecar.Ref.Name)
		if s.sidecar.local != "" {
			view.WriteString(" for " + s.sidecar.local)
		}
		if s.sidecar.Outbound != nil {
			s.outbound, s.outboundRule = *s.sidecar.Outbound, &s.sidecar.Ref
		}
	}
	view.WriteString(" " + strconv.Itoa(int(s.outbound)))
	s.view = view.String()
	s.key = s.view + q.answers(b, s)
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
				return b.index.localized(b.old, s, id.Namespace)
			}
		case s.Ref.Namespace == id.Namespace && own == nil:
			own = s
		case s.Ref.Namespace == b.rootNamespace() && len(s.Selector) == 0 && root == nil:
			root = s
		}
	}
	return b.index.localized(b.old, cmp.Or(own, root), id.Namespace)
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

// authScope returns the Compiler of Authorizers for a class.
func (b *builder) authScope(sc *identityClass) *authz.Compiler {
	s := b.authScopes[sc]
	if s == nil {
		s = b.auth.For(sc.identity)
		b.authScopes[sc] = s
	}
	return s
}

// sees says whether a service is exported to the workloads of a class.
func (b *builder) sees(sc *identityClass, s *Service) bool {
	return visible(s.Export, sc.identity.Namespace, inNamespace(b.cfg.Mesh.DefaultServiceExport, s.Ref.Namespace))
}

// view returns what a class sees of a service: the service itself, parts of
// it, or nothing.
func (b *builder) view(sc *identityClass, s *Service) []*Service {
	if !b.sees(sc, s) {
		return nil
	}
	return b.index.projected(sc.sidecar, s)
}

// oldView returns what a class of the snapshot before saw of a service.
func (b *builder) oldView(sc *identityClass, s *Service) []*Service {
	if p, ok := b.index.wasProjected(sc.sidecar, s); ok {
		return p
	}
	return b.view(sc, s)
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
