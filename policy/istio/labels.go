// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var (
	labelNameForm  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValueForm = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`)
)

// maxLabelValue is how long a label's value may be in Kubernetes. Istio has no
// such limit for the labels in a spec.
const maxLabelValue = 63

// isLabelKey says whether key is a qualified name of Kubernetes: a name, with
// or without a domain before it.
func isLabelKey(key string) bool {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		prefix, name = "", key
	}
	return (!found || isSubdomain(strings.ToLower(prefix))) && labelNameForm.MatchString(name)
}

// metaLabels checks the labels and the annotations of an object as the API
// server does.
func (o *object) metaLabels() {
	at := o.root.At("metadata", "labels")
	o.labels(at, o.meta.Labels)
	for _, key := range slices.Sorted(maps.Keys(o.meta.Labels)) {
		if n := len(o.meta.Labels[key]); n > maxLabelValue {
			o.Errorf(at.At(key), "invalid tag value: it has %d characters, more than %d", n, maxLabelValue)
		}
		if prefix, _, found := strings.Cut(key, "/"); found && !isSubdomain(prefix) && isLabelKey(key) {
			o.Errorf(at.KeyOf(key), "invalid tag key: %q", key)
		}
	}
	at = o.root.At("metadata", "annotations")
	for _, key := range slices.Sorted(maps.Keys(o.meta.Annotations)) {
		if !isLabelKey(strings.ToLower(key)) {
			o.Errorf(at.KeyOf(key), "invalid annotation: %q is not a name, or domain/name", key)
		}
	}
}

// labels checks the keys and values of Kubernetes labels at n.
func (o *object) labels(n *strictyaml.Node, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	x := indexOf(n)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !isLabelKey(key) {
			o.Errorf(x.keyOf(key), "invalid tag key: %q", key)
		}
		if value := labels[key]; !labelValueForm.MatchString(value) {
			o.Errorf(x.at(key), "invalid tag value: %q", value)
		}
	}
}

// selector checks the labels of a workload selector at n, and warns when
// there are none, with what that means.
func (o *object) selector(n *strictyaml.Node, labels map[string]string, without string) {
	x := indexOf(n)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pair := key + "=" + labels[key]
		switch {
		case key == "":
			o.Errorf(x.keyOf(key), "empty key is not supported in selector: %q", pair)
		case strings.Contains(pair, "*"):
			o.Errorf(x.keyOf(key), "wildcard is not supported in selector: %q", pair)
		case len(labels[key]) > maxLabelValue:
			o.Errorf(x.at(key), "a label has at most %d characters, so that the selector would select nothing", maxLabelValue)
		}
	}
	if len(labels) == 0 {
		o.SayCode(codeNoLabels, Warning, n, "%s", without)
	}
}
