// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// protocols is a set of policy.Protocol.
type protocols uint16

const (
	httpPorts = protocols(1<<policy.ProtocolHTTP | 1<<policy.ProtocolHTTP2 | 1<<policy.ProtocolGRPC | 1<<policy.ProtocolUnset)
	tlsPorts  = protocols(1<<policy.ProtocolHTTPS | 1<<policy.ProtocolTLS | 1<<policy.ProtocolUnset)
	tcpPorts  = protocols(1<<policy.ProtocolTCP | 1<<policy.ProtocolUnset)
	// protocolCount is how many there are.
	protocolCount = int(policy.ProtocolUDP) + 1
)

// declared is what is known of a host: one of the services that have it, and
// the protocols of all their ports.
type declared struct {
	service *policy.Service // nil: nobody has the host
	ports   protocols
}

func (d *declared) add(o declared) {
	if d.service == nil {
		d.service = o.service
	}
	d.ports |= o.ports
}

// hostSet finds what is declared for a host or a wildcard. The cost of a
// question does not grow with the number of hosts.
type hostSet struct {
	exact map[hostname.Pattern]declared // wildcards as well, by their text
	// several has the services of hosts that more than one has.
	several map[hostname.Pattern][]*policy.Service
	wild    *hostname.Index[declared]
	// ends are the hosts by their end, and counts how many ports of each
	// protocol those before have. Both are made for the first wildcard.
	ends      []ending
	counts    [][protocolCount]int32
	addresses map[netip.Addr]bool
	prefixes  []netip.Prefix
}

// ending is a host from its end to its start.
type ending struct {
	reversed string
	declared
}

func newHostSet(services []*policy.Service) *hostSet {
	s := &hostSet{
		exact: make(map[hostname.Pattern]declared, len(services)), several: map[hostname.Pattern][]*policy.Service{},
		addresses: map[netip.Addr]bool{},
	}
	wild := map[hostname.Pattern]declared{}
	for _, service := range services {
		d := declared{service: service}
		for _, p := range service.Ports {
			d.ports |= 1 << p.Protocol
		}
		for _, h := range service.Hosts {
			all := s.exact[h]
			if all.service != nil && all.service != service {
				if len(s.several[h]) == 0 {
					s.several[h] = []*policy.Service{all.service}
				}
				s.several[h] = append(s.several[h], service)
			}
			all.add(d)
			s.exact[h] = all
			if h.IsWildcard() {
				wild[h] = all
			}
		}
		for _, p := range service.Addresses {
			if p.IsSingleIP() {
				s.addresses[p.Addr()] = true
			} else {
				s.prefixes = append(s.prefixes, p)
			}
		}
	}
	s.wild = hostname.NewIndex(maps.All(wild))
	return s
}

// find returns what is declared for the names that h stands for, or for a
// part of them.
func (s *hostSet) find(h hostname.Pattern) declared {
	found := s.exact[h]
	walk := s.wild.Walk(string(h))
	for d, ok := walk.Next(); ok; d, ok = walk.Next() {
		found.add(d)
	}
	if h.IsWildcard() {
		found.add(s.below(h))
	}
	return found
}

// within says whether a declared host stands for names that h stands for, and
// for no others.
func (s *hostSet) within(h hostname.Pattern) bool {
	return s.exact[h].service != nil || h.IsWildcard() && s.below(h).service != nil
}

// below is what is declared for the hosts that a wildcard covers.
func (s *hostSet) below(h hostname.Pattern) declared {
	if s.ends == nil {
		s.index()
	}
	end := reverse(string(h[1:]))
	from, found := slices.BinarySearchFunc(s.ends, end, func(e ending, t string) int { return cmp.Compare(e.reversed, t) })
	to := from + startingWith(s.ends[from:], end)
	if found {
		from++ // a '*' is never empty
	}
	if from == to {
		return declared{}
	}
	d := declared{service: s.ends[from].service}
	for p := range protocolCount {
		if s.counts[to][p] > s.counts[from][p] {
			d.ports |= 1 << p
		}
	}
	return d
}

// startingWith returns how many of the sorted endings start with prefix.
func startingWith(all []ending, prefix string) int {
	n, _ := slices.BinarySearchFunc(all, prefix, func(e ending, p string) int {
		if strings.HasPrefix(e.reversed, p) {
			return -1
		}
		return 1
	})
	return n
}

func (s *hostSet) index() {
	s.ends = make([]ending, 0, len(s.exact))
	for h, d := range s.exact {
		s.ends = append(s.ends, ending{reverse(string(h)), d})
	}
	slices.SortFunc(s.ends, func(a, b ending) int { return cmp.Compare(a.reversed, b.reversed) })
	s.counts = make([][protocolCount]int32, len(s.ends)+1)
	for i, e := range s.ends {
		s.counts[i+1] = s.counts[i]
		for p := range protocolCount {
			if e.ports&(1<<p) != 0 {
				s.counts[i+1][p]++
			}
		}
	}
}

// reverse turns a host around: hosts are ASCII.
func reverse(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// hasAddress says whether host is an IP address that some service names.
func (s *hostSet) hasAddress(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && (s.addresses[a] || slices.ContainsFunc(s.prefixes, func(p netip.Prefix) bool { return p.Contains(a) }))
}
