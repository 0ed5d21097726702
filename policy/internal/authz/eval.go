// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// Knowledge says what is known of a fact about a flow.
type Knowledge uint8

// The kinds of Knowledge.
const (
	// Unavailable: nobody will know it. What asks for it does not match in ALLOW
	// rules, and is left out of DENY rules, which deny more for that.
	Unavailable Knowledge = iota
	// Deferred: the forwarding core will know it.
	Deferred
	// Known: the fact is there.
	Known
)

// Facts are what an Authorizer may ask of a flow.
type Facts struct {
	Host, SNI string
	Dst       netip.Prefix // one address, or those that an opening is for
	Src       netip.Addr
	// Visitor is set of who comes from outside to a gateway; PrincipalIs says what is
	// known of its Principal. A workload's identity is the scope's.
	Visitor       *match.Visitor
	PrincipalIs   Knowledge
	Request       *match.Request
	Port          uint16 // of the service
	HostIs, SNIIs Knowledge
	DstIs, SrcIs  Knowledge
	RequestIs     Knowledge
}

// assumption is how a fact that is not known counts.
type assumption struct {
	deny       bool // in a DENY rule
	optimistic bool // what will be known later is taken to be for the flow
}

// unknown is the answer of a question about a fact that is not known.
func (q assumption) unknown(k Knowledge) bool {
	if k == Deferred && q.optimistic {
		return !q.deny
	}
	return q.deny
}

// Ruling is what an Authorizer says of a flow.
type Ruling uint8

// The rulings.
const (
	// Passes: nothing denies the flow.
	Passes Ruling = iota
	// Denied: a rule of a DENY policy matches.
	Denied
	// NotAllowed: there are ALLOW policies, and no rule of one matches.
	NotAllowed
)

// Refuses says whether the Authorizer denies a flow, and by which rule: DENY policies first, then
// there must be an ALLOW rule that matches, if there is an ALLOW policy. With
// optimistic, only what cannot be allowed any more is refused.
func (g *Authorizer) Refuses(f *Facts, optimistic bool) (Ruling, *config.Ref) {
	if g == nil {
		return Passes, nil
	}
	for _, p := range g.deny {
		if r := p.match(f, assumption{deny: true, optimistic: optimistic}); r != nil {
			return Denied, r.ref
		}
	}
	if len(g.allow) == 0 {
		return Passes, nil
	}
	for _, p := range g.allow {
		if p.match(f, assumption{optimistic: optimistic}) != nil {
			return Passes, nil
		}
	}
	return NotAllowed, g.allow[0].ref
}

// Marks returns the AUDIT policy that matches the flow, and the dry-run policy
// that would deny it; nil for none.
func (g *Authorizer) Marks(f *Facts) (audited, dryRun *config.Ref) {
	if g == nil {
		return nil, nil
	}
	for _, p := range g.audit {
		if p.match(f, assumption{}) != nil {
			audited = p.ref
			break
		}
	}
	for _, p := range g.dryDeny {
		if p.match(f, assumption{deny: true}) != nil {
			return audited, p.ref
		}
	}
	for _, p := range g.dryAllow {
		if p.match(f, assumption{}) != nil {
			return audited, nil
		}
	}
	if len(g.dryAllow) > 0 {
		dryRun = g.dryAllow[0].ref
	}
	return audited, dryRun
}

// match returns the first rule that matches, or nil.
func (p *authPolicy) match(f *Facts, q assumption) *authRule {
	for i := range p.rules {
		if p.rules[i].matches(f, q) {
			return &p.rules[i]
		}
	}
	return nil
}

func (r *authRule) matches(f *Facts, q assumption) bool {
	if len(r.sources) > 0 && !slices.ContainsFunc(r.sources, func(s *config.AuthSource) bool { return f.is(s, q) }) {
		return false
	}
	if len(r.operations) > 0 {
		any := false
		for i := range r.operations {
			any = any || r.operations[i].matches(f, q)
		}
		if !any {
			return false
		}
	}
	for i := range r.conditions {
		if !r.conditions[i].matches(f, q) {
			return false
		}
	}
	return true
}

func (f *Facts) from(nets, not []netip.Prefix, q assumption) bool {
	return within(f.Src, f.SrcIs, nets, not, q)
}

// within says whether an address is, of which so much is known.
func within(a netip.Addr, is Knowledge, nets, not []netip.Prefix, q assumption) bool {
	if len(nets)+len(not) == 0 {
		return true
	}
	if is != Known {
		return q.unknown(is)
	}
	a = a.Unmap().WithZone("")
	has := func(p netip.Prefix) bool { return ipguard.Plain(p).Contains(a) }
	return (len(nets) == 0 || slices.ContainsFunc(nets, has)) && !slices.ContainsFunc(not, has)
}

// to is from for the destination, which may be many addresses.
func (f *Facts) to(nets, not []netip.Prefix, q assumption) bool {
	if f.DstIs != Known {
		return q.unknown(f.DstIs)
	}
	part := func(list []netip.Prefix) (all, some bool) {
		for _, n := range list {
			some = some || n.Overlaps(f.Dst)
			all = all || n.Bits() <= f.Dst.Bits() && n.Contains(f.Dst.Addr())
		}
		return all, some
	}
	all, some := part(nets)
	notAll, notSome := part(not)
	switch {
	case len(nets) > 0 && !some, notAll:
		return false
	case (len(nets) == 0 || all) && !notSome:
		return true
	}
	return q.unknown(Deferred) // some of the addresses: the one that is dialled tells
}

func (o *authOperation) matches(f *Facts, q assumption) bool {
	if len(o.Ports) > 0 && !slices.Contains(o.Ports, f.Port) || slices.Contains(o.NotPorts, f.Port) {
		return false
	}
	if len(o.Hosts)+len(o.NotHosts) > 0 && !f.onHost(o, q) {
		return false
	}
	if len(o.Methods)+len(o.NotMethods)+len(o.paths)+len(o.notPaths) == 0 {
		return true
	}
	if f.RequestIs != Known {
		return q.unknown(f.RequestIs)
	}
	return match.OneOf(o.Methods, o.NotMethods, f.Request.Method) && o.onPath(f.Request.Path, q)
}

// onPath looks at a path as it was sent and as a server may read it: what is
// denied in either form is denied, what is to be allowed must be in both. A path
// with an escape that is none ("%u0061") has forms that nobody knows: it may be
// what is denied, and is not what is allowed.
func (o *authOperation) onPath(raw string, q assumption) bool {
	if len(o.paths)+len(o.notPaths) == 0 {
		return true
	}
	if match.BadEscape(raw) {
		return q.deny
	}
	plain := match.PlainPath(raw)
	is := o.isPath(raw)
	if plain == raw {
		return is
	}
	if q.deny {
		return is || o.isPath(plain)
	}
	return is && o.isPath(plain)
}

func (o *authOperation) isPath(p string) bool {
	match := func(list []match.PathMatcher) bool {
		for i := range list {
			if list[i].Matches(p) {
				return true
			}
		}
		return false
	}
	return (len(o.paths) == 0 || match(o.paths)) && !match(o.notPaths)
}

// onHost matches names with and without the port behind them.
func (f *Facts) onHost(o *authOperation, q assumption) bool {
	if f.HostIs != Known {
		return q.unknown(f.HostIs)
	}
	var buffer [272]byte // the longest name, a colon and a port
	with := append(append(buffer[:0], f.Host...), ':')
	with = strconv.AppendUint(with, uint64(f.Port), 10)
	has := func(list []config.ValueMatch) bool {
		for i := range list {
			if match.ValueMatches(list[i], f.Host) || match.ValueMatchesBytes(&list[i], with) {
				return true
			}
		}
		return false
	}
	return (len(o.Hosts) == 0 || has(o.Hosts)) && !has(o.NotHosts)
}

func (c *authCondition) matches(f *Facts, q assumption) bool {
	switch c.key {
	case keyDestinationPort:
		return (len(c.ports) == 0 || slices.Contains(c.ports, f.Port)) && !slices.Contains(c.notPorts, f.Port)
	case keyDestinationIP:
		return f.to(c.nets, c.notNets, q)
	case keySourceIP:
		return f.from(c.nets, c.notNets, q)
	case keyRemoteIP:
		return f.through(c.nets, c.notNets, q)
	case keySourcePrincipal, keySourceNamespace, keySourceAccount:
		return f.bears(c, q)
	case keySNI:
		if f.SNIIs != Known {
			return q.unknown(f.SNIIs)
		}
		return match.OneOf(c.values, c.notValues, f.SNI)
	}
	if c.header == "" {
		return q.unknown(Unavailable) // tokens and the like, which nothing here has
	}
	if f.RequestIs != Known {
		return q.unknown(f.RequestIs)
	}
	return c.onHeader(f.Request, q)
}

// onHeader looks at a header's lines joined by commas, which is how Envoy sees
// them, and at each alone, which is how a server may that takes the first or the
// last: what is denied in any form is denied, what is to be allowed must be in
// all. A comma within a line parts values as a line end does (RFC 9110, 5.3).
func (c *authCondition) onHeader(r *match.Request, q assumption) bool {
	joined, _ := r.Field(c.header)
	has := func(v string) bool { return match.OneOf(c.values, c.notValues, v) }
	is := has(joined)
	for i := r.Header.Index(c.header, 0); i >= 0; i = r.Header.Index(c.header, i+1) {
		line := r.Header[i].Value
		if !q.deny {
			is = is && has(line)
			continue
		}
		is = is || has(line)
		for part := range strings.SplitSeq(line, ",") {
			is = is || has(strings.Trim(part, " \t"))
		}
	}
	return is
}

// Access is what an Authorizer says of flows before their first byte.
type Access uint8

// The kinds of Access.
const (
	// AllowAll: whatever comes, it is allowed.
	AllowAll Access = iota
	// Undecided: the forwarding core must look.
	Undecided
	// DenyAll: whatever comes, it is denied.
	DenyAll
)

// Access says what the kernel can know.
func (g *Authorizer) Access(f *Facts) Access {
	if r, _ := g.Refuses(f, false); r == Passes {
		return AllowAll
	}
	if r, _ := g.Refuses(f, true); r != Passes {
		return DenyAll
	}
	return Undecided
}

// AtGateway turns the facts to a port of a gateway. The address that would be
// dialled there is its own.
func (f *Facts) AtGateway(port uint16) { f.Port, f.Dst, f.DstIs = port, netip.Prefix{}, Unavailable }

// MarksNone says whether the Authorizer marks no flow, whatever it allows.
func (g *Authorizer) MarksNone() bool { return len(g.audit)+len(g.dryDeny)+len(g.dryAllow) == 0 }
