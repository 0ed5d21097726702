// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/cow"
	"github.com/egressd/egressd/internal/hostname"
)

// base is what a Snapshot keeps for the next one to build on.
type base struct {
	cfg *Config
	// declared has the namespaces of the services that declare a host, and,
	// under the text of a prefix, which is no host, of those that name it.
	declared cow.Map[hostname.Pattern, []string]
	// contested counts the hosts and prefixes that a namespace declares and
	// another does, too: there the namespace of the workload matters.
	contested map[string]int
	// limited counts the services that are not visible to everybody, by the
	// namespaces that see them.
	limited map[string]int
	// kube has the Kubernetes Services by host, borrow by namespace and name.
	kube     map[string]*Service
	borrow   map[[2]string]*Service
	matchers map[*HTTPMatch]*matcher
	// parts are services as Sidecars let them be seen; oldParts are those of
	// the snapshot before, while a new one is built.
	parts, oldParts map[part][]*Service
}

var seed = maphash.MakeSeed()

func hashPattern(p hostname.Pattern) uint64 { return maphash.String(seed, string(p)) }

func newBase(c *Config, old *base) *base {
	n := &base{
		cfg: c, declared: cow.New[hostname.Pattern, []string](hashPattern),
		contested: map[string]int{}, limited: map[string]int{},
		kube: map[string]*Service{}, borrow: map[[2]string]*Service{},
		matchers: map[*HTTPMatch]*matcher{}, parts: map[part][]*Service{},
	}
	if old != nil {
		n.declared, n.contested, n.limited = old.declared, maps.Clone(old.contested), maps.Clone(old.limited)
		n.oldParts = old.parts
	}
	return n
}

// distinguished returns the namespaces whose workloads see other services, or
// see them in another order, than those of other namespaces.
func (n *base) distinguished() map[string]bool {
	out := map[string]bool{}
	for _, m := range []map[string]int{n.contested, n.limited} {
		for name := range m {
			out[name] = true
		}
	}
	return out
}

// index brings the base to the new services.
func (b *builder) index() {
	n := b.base
	edit := n.declared.Edit()
	for _, s := range b.removed {
		if s.External {
			n.count(edit, s, -1)
		}
	}
	for _, s := range b.added {
		if s.External {
			n.count(edit, s, 1)
		}
	}
	n.declared = edit.Map()
	for _, s := range b.cfg.Services {
		if s.External {
			continue
		}
		n.borrow[[2]string{s.Ref.Namespace, s.Ref.Name}] = s
		for _, h := range s.Hosts {
			if _, ok := n.kube[string(h)]; !ok {
				n.kube[string(h)] = s
			}
		}
	}
}

// count adds a service (by 1) or takes it out (by -1).
func (n *base) count(edit *cow.Edit[hostname.Pattern, []string], s *Service, by int) {
	if s.Export.Limited {
		for _, name := range s.Export.Namespaces {
			tally(n.limited, name, by)
		}
	}
	ns := s.Ref.Namespace
	for _, h := range s.claims() {
		before, _ := edit.Get(h)
		after := slices.Clone(before)
		if by > 0 {
			after = append(after, ns)
		} else if i := slices.Index(after, ns); i >= 0 {
			after = slices.Delete(after, i, i+1)
		}
		for _, name := range contestants(before) {
			tally(n.contested, name, -1)
		}
		for _, name := range contestants(after) {
			tally(n.contested, name, 1)
		}
		if len(after) == 0 {
			edit.Delete(h)
		} else {
			edit.Set(h, after)
		}
	}
}

// claims lists what a service declares: its hosts, and the prefixes that it
// names.
func (s *Service) claims() []hostname.Pattern {
	if len(s.Addresses)+len(s.Endpoints) == 0 {
		return s.Hosts
	}
	out := slices.Clone(s.Hosts)
	for _, a := range s.Addresses {
		out = append(out, hostname.Pattern(plainPrefix(a).String()))
	}
	for _, e := range s.Endpoints {
		if a := e.Addr.Unmap(); a.IsValid() {
			out = append(out, hostname.Pattern(netip.PrefixFrom(a, a.BitLen()).String()))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// contestants returns the different namespaces of a list when there are
// several.
func contestants(list []string) []string {
	if len(list) < 2 {
		return nil
	}
	names := slices.Compact(slices.Sorted(slices.Values(list)))
	if len(names) < 2 {
		return nil
	}
	return names
}

func tally(m map[string]int, name string, by int) {
	if m[name] += by; m[name] == 0 {
		delete(m, name)
	}
}
