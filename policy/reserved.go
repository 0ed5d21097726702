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
	return hostWalk{p.names.Walk(name), p.reserved[name]}
}

// lookup returns the first host of walk.
func (p *Policy) lookup(name string) (*Host, bool) {
	w := p.walk(name)
	return w.Next()
}

type hostWalk struct {
	matching hostname.Walk[*Host]
	reserved *reservedName // nil: all wildcards stand for the name
}

// Next returns the next host, and false when there is none.
func (w *hostWalk) Next() (*Host, bool) {
	for {
		h, ok := w.matching.Next()
		if !ok || w.reserved == nil || !slices.Contains(w.reserved.from, h.Pattern) {
			return h, ok
		}
	}
}
