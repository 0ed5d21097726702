// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

var (
	labelNameForm  = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	labelValueForm = regexp.MustCompile(`^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$`)
)

// labels checks the keys and values of Kubernetes labels at n.
func (p *place) labels(n *node, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	x := n.index()
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		prefix, name, found := strings.Cut(key, "/")
		if !found {
			prefix, name = "", key
		}
		if found && !isSubdomain(strings.ToLower(prefix)) || !labelNameForm.MatchString(name) {
			p.errorf(x.keyOf(key), "invalid tag key: %q", key)
		}
		if value := labels[key]; !labelValueForm.MatchString(value) {
			p.errorf(x.at(key), "invalid tag value: %q", value)
		}
	}
}

// selector checks the labels of a workload selector at n, and warns when
// there are none, with what that means.
func (p *place) selector(n *node, labels map[string]string, without string) {
	x := n.index()
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pair := key + "=" + labels[key]
		switch {
		case key == "":
			p.errorf(x.keyOf(key), "empty key is not supported in selector: %q", pair)
		case strings.Contains(pair, "*"):
			p.errorf(x.keyOf(key), "wildcard is not supported in selector: %q", pair)
		}
	}
	if len(labels) == 0 {
		p.warnf(n, "%s", without)
	}
}

// selects says whether labels has all of selector.
func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}
