// SPDX-License-Identifier: Apache-2.0

package ipguard

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// Addresses holds the node's own addresses, which change while it runs. It is safe
// for concurrent use; the zero value has none.
type Addresses struct{ p atomic.Pointer[ownSet] }

type ownSet struct {
	addrs map[netip.Addr]struct{}
	// wide are the prefixes of more than one address, such as those of local
	// routes.
	wide []netip.Prefix
}

// Set replaces the addresses; v4-mapped ones are unmapped and zones dropped.
// It says whether one is there that was not before.
func (o *Addresses) Set(own []netip.Prefix) (more bool) {
	s := &ownSet{addrs: make(map[netip.Addr]struct{}, len(own))}
	for _, p := range own {
		a := p.Addr().WithZone("")
		switch {
		case !a.IsValid():
		case p.Bits() == a.BitLen():
			s.addrs[a.Unmap()] = struct{}{}
		default:
			s.wide = append(s.wide, netip.PrefixFrom(a, p.Bits()).Masked())
		}
	}
	was := o.p.Swap(s)
	if was == nil {
		was = &ownSet{}
	}
	for a := range s.addrs {
		if !was.has(a) {
			return true
		}
	}
	return slices.ContainsFunc(s.wide, func(p netip.Prefix) bool { return !slices.Contains(was.wide, p) })
}

// Has says whether the node has the address now.
func (o *Addresses) Has(a netip.Addr) bool {
	if o == nil {
		return false
	}
	s := o.p.Load()
	return s != nil && s.has(a)
}

func (s *ownSet) has(a netip.Addr) bool {
	if _, ok := s.addrs[a]; ok {
		return true
	}
	return slices.ContainsFunc(s.wide, func(p netip.Prefix) bool { return p.Contains(a) })
}
