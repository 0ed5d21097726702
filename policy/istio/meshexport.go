// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
)

// of is the visibility of an object in a namespace.
func (v *visibility) of(namespace string) policy.Visibility {
	if v.all {
		return policy.Visibility{}
	}
	out := policy.Visibility{Limited: true, Namespaces: slices.Clone(v.namespaces)}
	if v.own && !slices.Contains(out.Namespaces, namespace) {
		out.Namespaces = append(out.Namespaces, namespace)
	}
	slices.Sort(out.Namespaces)
	return out
}

// defaultExport reads one of the MeshConfig's defaults; nil when it is not set.
func (m *meshSource) defaultExport(key string, values []string) *visibility {
	if len(values) == 0 {
		return nil
	}
	out := &visibility{}
	seen := map[string]bool{}
	for i, s := range values {
		at := m.at.At(key, i)
		if seen[s] {
			m.Errorf(at, "duplicate entries in %s for entry %s", key, s)
		}
		seen[s] = true
		switch s {
		case ".":
			out.own = true
		case "*":
			out.all = true
			if len(values) > 1 {
				m.Errorf(at, "cannot have both public (*) and non-public exportTo values for a resource")
			}
		case "~":
			if len(values) > 1 {
				m.Errorf(at, "cannot export service entry to no one (~) and someone")
			}
		default:
			if !check.IsLabel(s) {
				m.Errorf(at, "%s: %q is not \".\", \"*\", \"~\" or a namespace", key, s)
			}
			out.namespaces = append(out.namespaces, s)
		}
	}
	return out
}

// saysExport says whether a ServiceEntry has its own exportTo, which is never
// the zero Visibility.
func saysExport(s *policy.Service) bool { return s.Export.Limited || s.Export.Everybody }

// visible returns the batch's services with a default for exportTo; nil is
// none. They are the same as long as the default is.
func (b *batch) visible(v *visibility) []*policy.Service {
	if v == nil {
		return b.services
	}
	if !v.equal(b.exportedFor) {
		b.exported, b.exportedFor = slices.Clone(b.services), v
		for i, s := range b.services {
			if !saysExport(s) {
				c := *s
				c.Export = v.of(s.Ref.Namespace)
				b.exported[i] = &c
			}
		}
	}
	return b.exported
}
