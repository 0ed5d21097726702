// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"github.com/egressd/egressd/internal/hostname"
)

// reservedName is a name that some wildcards which cover it do not stand for:
// that of a Kubernetes Service of another namespace.
type reservedName struct {
	owner string             // the Service's namespace
	from  []hostname.Pattern // the wildcards
}

// walk goes through the hosts that stand for a normalized name, most specific
// first.
func (p *Policy) walk(name string) hostWalk {
	w := hostWalk{matching: p.names.Walk(name), reserved: p.reserved[name]}
	if namespace, ok := p.clusterNamespace(name); ok {
		w.policy, w.namespace = p, namespace
	}
	return w
}

// lookup returns the first host of walk.
func (p *Policy) lookup(name string) (*Host, bool) {
	w := p.walk(name)
	return w.Next()
}

type hostWalk struct {
	matching hostname.Walk[*Host]
	reserved *reservedName // nil: all wildcards stand for the name
	// policy is set for a name of the cluster's, and namespace whose it is.
	policy    *Policy
	namespace string
}

// Next returns the next host, and false when there is none.
func (w *hostWalk) Next() (*Host, bool) {
	for {
		h, ok := w.matching.Next()
		if ok && w.policy != nil && !w.policy.mayName(h, w.namespace) {
			continue
		}
		if !ok || w.reserved == nil || !slices.Contains(w.reserved.from, h.Pattern) {
			return h, ok
		}
	}
}
