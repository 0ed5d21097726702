// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"reflect"
	"slices"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
)

// statusEdit is an edit by a change of the status. What is not known here, of a
// newer Gateway API or of other controllers, stays.
func statusEdit(change func(status map[string]any, now meta.Time)) edit {
	return func(o *unstructured.Unstructured, now meta.Time) bool {
		before, _, _ := unstructured.NestedMap(o.Object, "status")
		status, _, _ := unstructured.NestedMap(o.Object, "status")
		if status == nil {
			status = map[string]any{}
		}
		change(status, now)
		if reflect.DeepEqual(before, status) || len(before) == 0 && len(status) == 0 {
			return false
		}
		o.Object["status"] = status
		return true
	}
}

// plain is v as JSON has it.
func plain(v any) map[string]any {
	out, err := runtime.DefaultUnstructuredConverter.ToUnstructured(v)
	if err != nil {
		return map[string]any{} // of our own types there is none that cannot be
	}
	return out
}

// merge puts conditions in the places of those of their types. A condition that is
// as it was keeps the time of its last transition.
func merge(list any, conditions []meta.Condition, now meta.Time) []any {
	out, _ := list.([]any)
	for _, c := range conditions {
		c.LastTransitionTime = now.Rfc3339Copy()
		m := plain(&c)
		i := slices.IndexFunc(out, func(o any) bool { was, _ := o.(map[string]any); return was["type"] == c.Type })
		if i < 0 {
			out = append(out, m)
			continue
		}
		if was, _ := out[i].(map[string]any); was["status"] == m["status"] && was["lastTransitionTime"] != nil {
			m["lastTransitionTime"] = was["lastTransitionTime"]
		}
		out[i] = m
	}
	return out
}

// editClass brings the status of a GatewayClass up to date.
func editClass(status map[string]any, want gateway.GatewayClassStatus, now meta.Time) {
	status["conditions"] = merge(status["conditions"], want.Conditions, now)
	status["supportedFeatures"] = plain(&want)["supportedFeatures"]
}

// editGateway brings the status of a Gateway up to date.
func editGateway(status map[string]any, want gateway.GatewayStatus, now meta.Time) {
	status["conditions"] = merge(status["conditions"], want.Conditions, now)
	delete(status, "addresses")
	if len(want.Addresses) > 0 {
		status["addresses"] = plain(&gateway.GatewayStatus{Addresses: want.Addresses})["addresses"]
	}
	were, _ := status["listeners"].([]any)
	var listeners []any
	for _, l := range want.Listeners {
		m := plain(&l)
		var conditions any
		for _, o := range were {
			if was, _ := o.(map[string]any); was["name"] == string(l.Name) {
				conditions = was["conditions"]
			}
		}
		m["conditions"] = merge(conditions, l.Conditions, now)
		if len(l.SupportedKinds) == 0 {
			m["supportedKinds"] = []any{}
		}
		listeners = append(listeners, m)
	}
	delete(status, "listeners")
	if len(listeners) > 0 {
		status["listeners"] = listeners
	}
}

// editRoute brings the parents of a route up to date that egressd answers for;
// those of other controllers stay as they are, where they are.
func editRoute(status map[string]any, want []gateway.RouteParentStatus, now meta.Time) {
	were, _ := status["parents"].([]any)
	left := slices.Clone(want)
	var out []any
	for _, o := range were {
		was, _ := o.(map[string]any)
		if was["controllerName"] != ControllerName {
			out = append(out, o)
			continue
		}
		i := slices.IndexFunc(left, func(p gateway.RouteParentStatus) bool {
			return reflect.DeepEqual(plain(&p.ParentRef), was["parentRef"])
		})
		if i < 0 {
			continue // a parent that is none any more
		}
		out = append(out, parent(left[i], was["conditions"], now))
		left = slices.Delete(left, i, i+1)
	}
	for _, p := range left {
		out = append(out, parent(p, nil, now))
	}
	switch {
	case len(out) > 0:
		status["parents"] = out
	case len(were) > 0:
		status["parents"] = []any{} // the field is required
	}
}

func parent(p gateway.RouteParentStatus, were any, now meta.Time) map[string]any {
	conditions := p.Conditions
	p.Conditions = nil
	m := plain(&p)
	m["conditions"] = merge(were, conditions, now)
	return m
}
