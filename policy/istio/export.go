// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// exportAnnotation is a Kubernetes Service's exportTo, separated by commas.
const exportAnnotation = "networking.istio.io/exportTo"

// exportTo reads who sees an object: "*" everybody, which is what nothing
// says as well, "." its own namespace, names, and, where nobody says so, "~"
// for no one at all.
func (o *object) exportTo(n *strictyaml.Node, values []string, nobody bool) policy.Visibility {
	if len(values) == 0 {
		return policy.Visibility{}
	}
	out := policy.Visibility{Limited: true}
	public, first := false, map[string]string{}
	for i, v := range values {
		at := n.At(i)
		name := o.exported(v)
		if before, dup := first[name]; dup {
			if before != v {
				o.Errorf(at, "duplicate entries in exportTo: . and current namespace %s", name)
			} else {
				o.Errorf(at, "duplicate entries in exportTo for entry %s", v)
			}
			continue
		}
		first[name] = v
		switch {
		case v == "*":
			public = true
		case v == "~" && !nobody:
			o.Errorf(at, "exportTo ~ (none) is not allowed for Istio configuration objects")
		case v == "~":
			if len(values) > 1 {
				o.Errorf(at, "cannot export service entry to no one (~) and someone")
			}
		case !check.IsLabel(name):
			o.Errorf(at, "only .,*, or a valid DNS 1123 label is allowed as exportTo entry, not %q", v)
		default:
			out.Namespaces = append(out.Namespaces, name)
		}
	}
	if public {
		if len(values) > 1 {
			o.Errorf(n, "cannot have both public (*) and non-public exportTo values for a resource")
		}
		return policy.Visibility{Everybody: true}
	}
	slices.Sort(out.Namespaces)
	return out
}

// exported is the namespace that an exportTo value stands for.
func (o *object) exported(value string) string {
	if value == "." {
		return o.meta.Namespace
	}
	return value
}

// annotatedExport reads the visibility of a Kubernetes Service.
func (o *object) annotatedExport() policy.Visibility {
	value := o.meta.Annotations[exportAnnotation]
	if value == "" {
		return policy.Visibility{}
	}
	values := strings.Split(value, ",")
	for i := range values {
		values[i] = strings.TrimSpace(values[i])
	}
	// All of them are at the annotation: a scalar has no parts.
	return o.exportTo(o.root.At("metadata", "annotations", exportAnnotation), values, true)
}
