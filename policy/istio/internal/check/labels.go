// SPDX-License-Identifier: Apache-2.0

package check

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/istio/internal/code"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

var (
	labelNameForm  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValueForm = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$`)
)

// MaxLabelValue is how long a label's value may be in Kubernetes. Istio has no
// such limit for the labels in a spec.
const MaxLabelValue = 63

// IsLabelKey says whether key is a qualified name of Kubernetes: a name, with
// or without a domain before it.
func IsLabelKey(key string) bool {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		prefix, name = "", key
	}
	return (!found || IsSubdomain(strings.ToLower(prefix))) && labelNameForm.MatchString(name)
}

// Labels checks the keys and values of Kubernetes labels at n.
func (o *Checker) Labels(n *strictyaml.Node, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	x := strictyaml.EntriesOf(n)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		if !IsLabelKey(key) {
			o.Errorf(x.KeyOf(key), "invalid tag key: %q", key)
		}
		if value := labels[key]; !labelValueForm.MatchString(value) {
			o.Errorf(x.At(key), "invalid tag value: %q", value)
		}
	}
}

// NoLabels is what Istio says of a selector that selects everything.
const NoLabels = "workload selector specified without labels"

// Selector checks the labels of a workload selector at n, and warns when
// there are none, with what that means.
func (o *Checker) Selector(n *strictyaml.Node, labels map[string]string, without string) {
	x := strictyaml.EntriesOf(n)
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pair := key + "=" + labels[key]
		switch {
		case key == "":
			o.Errorf(x.KeyOf(key), "empty key is not supported in selector: %q", pair)
		case strings.Contains(pair, "*"):
			o.Errorf(x.KeyOf(key), "wildcard is not supported in selector: %q", pair)
		case len(labels[key]) > MaxLabelValue:
			o.Errorf(x.At(key), "a label has at most %d characters, so that the selector would select nothing", MaxLabelValue)
		}
	}
	if len(labels) == 0 {
		o.SayCode(code.NoLabels, strictyaml.Warning, n, "%s", without)
	}
}
