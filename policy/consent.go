// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"path"
	"slices"

	"github.com/egressd/egressd/internal/ipguard"
)

// Consent is what the operator of a node lets policies lead to. The zero
// value is nothing that is node-local.
type Consent struct {
	allowed []AllowedEndpoint
	local   []netip.Prefix
}

// NewConsent makes a Consent of a list.
func NewConsent(allowed []AllowedEndpoint) Consent {
	return Consent{allowed, ipguard.NodeLocal()}
}

// Socket says whether a unix socket is allowed: by its path or its abstract
// name. That the path is no link to another place is for the dial to see.
func (c Consent) Socket(socket string) bool {
	if socket != "" && socket[0] != '@' {
		socket = path.Clean(socket)
	}
	return socket != "" && slices.ContainsFunc(c.allowed, func(a AllowedEndpoint) bool { return a.Unix == socket })
}

// Address says whether an address and port may be dialled: it is not
// node-local, or allowed.
func (c Consent) Address(a netip.Addr, port uint16) bool {
	a = a.Unmap().WithZone("")
	return !slices.ContainsFunc(c.local, func(p netip.Prefix) bool { return p.Contains(a) }) ||
		slices.ContainsFunc(c.allowed, func(o AllowedEndpoint) bool { return o.Prefix.Contains(a) && o.Opens(port) })
}

// Endpoint says whether an endpoint may be dialled.
func (c Consent) Endpoint(e UpstreamEndpoint) bool {
	if e.Unix != "" {
		return c.Socket(e.Unix)
	}
	return c.Address(e.Addr.Addr(), e.Addr.Port())
}

// place writes the endpoint as an AllowedEndpoint.
func (e UpstreamEndpoint) place() string {
	if e.Unix != "" {
		return AllowedEndpoint{Unix: e.Unix}.String()
	}
	return e.Addr.String()
}

// Divide says what of a prefix is open on a port, and what within that is not:
// node-local addresses without consent. Of several prefixes that contain an
// address the longest counts. Port 0 is for what is allowed on every port.
func (c Consent) Divide(p netip.Prefix, port uint16) (open, refused []netip.Prefix) {
	p = ipguard.Plain(p)
	for _, l := range c.local {
		switch {
		case !l.Overlaps(p):
		case l.Bits() <= p.Bits(): // p lies within
			refused = append(refused, p)
		default:
			refused = append(refused, l)
		}
	}
	if !slices.Contains(refused, p) {
		open = append(open, p)
	}
	if len(refused) == 0 {
		return open, nil
	}
	for _, a := range c.allowed {
		if !a.Prefix.IsValid() || !a.Opens(port) {
			continue
		}
		refused = slices.DeleteFunc(refused, func(r netip.Prefix) bool {
			whole := a.Prefix.Overlaps(r) && a.Prefix.Bits() <= r.Bits()
			if whole {
				open = append(open, r)
			}
			return whole
		})
		if slices.ContainsFunc(refused, a.Prefix.Overlaps) {
			open = append(open, a.Prefix)
		}
	}
	slices.SortFunc(open, comparePrefix)
	slices.SortFunc(refused, comparePrefix)
	return slices.Compact(open), slices.Compact(refused)
}

// Literal lists the parts of a prefix that are open on all of the ports.
func (c Consent) Literal(p netip.Prefix, ports []Port) []netip.Prefix {
	if !slices.ContainsFunc(c.allowed, func(a AllowedEndpoint) bool { return a.Port != 0 }) || len(ports) == 0 {
		return c.literal(p, 0)
	}
	out := c.literal(p, ports[0].Number)
	for _, port := range ports[1:] {
		out = common(out, c.literal(p, port.Number))
	}
	return out
}

// common lists what is in both of two lists.
func common(x, y []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range x {
		for _, b := range y {
			switch {
			case !a.Overlaps(b):
			case a.Bits() > b.Bits():
				out = append(out, a)
			default:
				out = append(out, b)
			}
		}
	}
	return out
}

func (c Consent) literal(p netip.Prefix, port uint16) []netip.Prefix {
	open, refused := c.Divide(p, port)
	if len(refused) == 0 {
		return open
	}
	var out []netip.Prefix
	for _, o := range open {
		out = append(out, ipguard.Without(o, slices.DeleteFunc(slices.Clone(refused), func(r netip.Prefix) bool { return r.Bits() <= o.Bits() }))...)
	}
	return out
}
