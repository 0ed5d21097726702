// SPDX-License-Identifier: Apache-2.0

package kubestatus

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/egressd/egressd/policy/istio"
)

const (
	// ConditionAccepted is the condition of Istio's objects: False for one that
	// has errors, True for one that has warnings; others have none. Reconciled is
	// istiod's own.
	ConditionAccepted = "egressd.dev/Accepted"
	// codePrefix tells our validationMessages from those of istiod.
	codePrefix = "EGD"
	// maxMessages bounds our validationMessages of an object.
	maxMessages = 32
	maxText     = 1024
)

// kind is a kind of Istio's objects that has a status.
type kind struct {
	group, kind, resource string
}

// istioKinds are the kinds whose objects get conditions.
var istioKinds = []kind{
	{"networking.istio.io", "ServiceEntry", "serviceentries"},
	{"networking.istio.io", "VirtualService", "virtualservices"},
	{"networking.istio.io", "Gateway", "gateways"},
	{"networking.istio.io", "DestinationRule", "destinationrules"},
	{"networking.istio.io", "Sidecar", "sidecars"},
	{"networking.istio.io", "WorkloadEntry", "workloadentries"},
	{"security.istio.io", "AuthorizationPolicy", "authorizationpolicies"},
}

// istioVersions are the versions of these kinds, the newest first.
var istioVersions = []string{"v1", "v1beta1", "v1alpha3"}

// name is the name of an object, as findings have it.
type name struct{ kind, namespace, name string }

// nameOf reads the name of an object of the API server from a finding. A kind that
// two groups have stands there with its group, if it is not Istio's.
func nameOf(f *istio.Finding) (name, bool) {
	rest, ok := strings.CutPrefix(f.File, "kubernetes:")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return name{}, false
	}
	return name{parts[0], parts[1], parts[2]}, true
}

// verdict is what there is to say of an object.
type verdict struct {
	errors, warnings []istio.Finding
}

// verdicts are what there is to say of each object; notes are nothing.
func verdicts(findings []istio.Finding) map[name]*verdict {
	out := map[name]*verdict{}
	for i := range findings {
		f := &findings[i]
		n, ok := nameOf(f)
		if !ok || f.Severity == istio.Note {
			continue
		}
		v := out[n]
		if v == nil {
			v = &verdict{}
			out[n] = v
		}
		if f.Severity == istio.Error {
			v.errors = append(v.errors, *f)
		} else {
			v.warnings = append(v.warnings, *f)
		}
	}
	return out
}

// text says what was found, and what it means.
func (v *verdict) text() string {
	if len(v.errors) > 0 {
		return "this version of the object is not in force, its last good one is if there was one: " + list(v.errors)
	}
	return "the object is in force; it may not do what is meant: " + list(v.warnings)
}

// list lists findings, as far as there is room.
func list(findings []istio.Finding) string {
	var b strings.Builder
	for i, f := range findings {
		s := f.Text
		if f.Code != "" {
			s += " (" + f.Code + ")"
		}
		if i > 0 && b.Len()+len(s) > maxText {
			fmt.Fprintf(&b, "; and %d more", len(findings)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(short(s, maxText))
	}
	return b.String()
}

// edit brings what egressd says in the status of an object up to date, and says
// whether that changed anything. What others say in it stays as it is: conditions
// and validationMessages are lists that a custom resource definition of Istio does
// not merge. nil removes what egressd says.
func (v *verdict) edit(o *unstructured.Unstructured, now meta.Time) bool {
	status, _, _ := unstructured.NestedMap(o.Object, "status")
	before, _, _ := unstructured.NestedMap(o.Object, "status")
	if status == nil {
		status = map[string]any{}
	}
	set := func(field string, list []any) {
		if len(list) > 0 {
			status[field] = list
		} else {
			delete(status, field)
		}
	}
	conditions, _ := status["conditions"].([]any)
	set("conditions", v.conditions(conditions, o.GetGeneration(), now))
	messages, _ := status["validationMessages"].([]any)
	set("validationMessages", v.messages(messages))
	if reflect.DeepEqual(status, before) || len(status) == 0 && len(before) == 0 {
		return false
	}
	o.Object["status"] = status
	return true
}

// conditions are the conditions of others with ours in its place.
func (v *verdict) conditions(list []any, generation int64, now meta.Time) []any {
	ours := func(c any) bool { m, _ := c.(map[string]any); return m["type"] == ConditionAccepted }
	at := slices.IndexFunc(list, ours)
	if v == nil {
		return slices.DeleteFunc(list, ours)
	}
	c := map[string]any{
		"type": ConditionAccepted, "status": "True", "reason": "Warnings", "message": v.text(),
		"observedGeneration": generation, "lastTransitionTime": now.UTC().Format("2006-01-02T15:04:05Z"),
	}
	if len(v.errors) > 0 {
		c["status"], c["reason"] = "False", "Invalid"
	}
	if at < 0 {
		return append(list, c)
	}
	if was, _ := list[at].(map[string]any); was["status"] == c["status"] && was["lastTransitionTime"] != nil {
		c["lastTransitionTime"] = was["lastTransitionTime"]
	}
	list[at] = c
	return list
}

// messages are the validationMessages of others, and ours.
func (v *verdict) messages(list []any) []any {
	list = slices.DeleteFunc(list, func(m any) bool {
		entry, _ := m.(map[string]any)
		code, _, _ := unstructured.NestedString(entry, "type", "code")
		return strings.HasPrefix(code, codePrefix)
	})
	if v == nil {
		return list
	}
	seen := map[string]bool{}
	add := func(level string, findings []istio.Finding) {
		for _, f := range findings {
			if f.Code == "" || seen[f.Code] || len(seen) >= maxMessages {
				continue
			}
			seen[f.Code] = true
			list = append(list, map[string]any{"level": level, "type": map[string]any{"code": f.Code, "name": Manager}})
		}
	}
	add("ERROR", v.errors)
	add("WARNING", v.warnings)
	return list
}
