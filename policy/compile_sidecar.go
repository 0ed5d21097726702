// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// sidecarHome is a Sidecar as the workloads of one namespace have it.
type sidecarHome struct {
	sidecar   *Sidecar
	namespace string
}

// sidecarFor returns a Sidecar as the workloads of a namespace have it: in that
// of the root namespace "." is theirs (istio pilot/pkg/model
// convertToSidecarScope). Each is made once, so that the same Sidecar of the
// same namespace is the same pointer in the next snapshot.
func (b *builder) sidecarFor(s *Sidecar, namespace string) *Sidecar {
	relative := func(h SidecarHost) bool { return h.Namespace == "." }
	if s == nil || !slices.ContainsFunc(s.Egress, func(e SidecarEgress) bool { return slices.ContainsFunc(e.Hosts, relative) }) {
		return s
	}
	k := sidecarHome{s, namespace}
	own := b.base.sidecars[k]
	if own == nil {
		if own = b.base.oldSidecars[k]; own == nil {
			own = s.in(namespace)
		}
		b.base.sidecars[k] = own
	}
	return own
}

// in is the Sidecar with a namespace in place of ".".
func (sc *Sidecar) in(namespace string) *Sidecar {
	out := *sc
	out.home, out.Egress = namespace, slices.Clone(sc.Egress)
	for i := range out.Egress {
		e := &out.Egress[i]
		e.Hosts = slices.Clone(e.Hosts)
		for j := range e.Hosts {
			if e.Hosts[j].Namespace == "." {
				e.Hosts[j].Namespace = namespace
			}
		}
	}
	return &out
}
