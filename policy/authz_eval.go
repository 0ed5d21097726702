// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy/internal/match"
)

// knowledge says what is known of a fact about a flow.
type knowledge uint8

const (
	// never: nobody will know it. What asks for it does not match in ALLOW
	// rules, and is left out of DENY rules, which deny more for that.
	never knowledge = iota
	// later: the forwarding core will know it.
	later
	known
)

// authFacts are what a guard may ask of a flow.
type authFacts struct {
	host, sni     string
	dst           netip.Prefix // one address, or those that an opening is for
	src           netip.Addr
	request       *Request
	port          uint16 // of the service
	hostIs, sniIs knowledge
	dstIs, srcIs  knowledge
	requestIs     knowledge
}

// asking is how a fact that is not known counts.
type asking struct {
	deny bool // in a DENY rule
	hope bool // what will be known later is taken to be for the flow
}

// unknown is the answer of a question about a fact that is not known.
func (q asking) unknown(k knowledge) bool {
	if k == later && q.hope {
		return !q.deny
	}
	return q.deny
}

// refusal is why a guard denies, and by which rule; no reason: it does not.
type refusal struct {
	reason Reason
	rule   *Ref
}

func (r refusal) decision() Decision { return deny(r.reason, r.rule) }

// refuses says whether the guard denies a flow: DENY policies first, then
// there must be an ALLOW rule that matches, if there is an ALLOW policy. With
// hope, only what cannot be allowed any more is refused.
func (g *guard) refuses(f *authFacts, hope bool) refusal {
	if g == nil {
		return refusal{}
	}
	for _, p := range g.deny {
		if r := p.match(f, asking{deny: true, hope: hope}); r != nil {
			return refusal{ReasonAuthorization, r.ref}
		}
	}
	if len(g.allow) == 0 {
		return refusal{}
	}
	for _, p := range g.allow {
		if p.match(f, asking{hope: hope}) != nil {
			return refusal{}
		}
	}
	return refusal{ReasonNoAllow, g.allow[0].ref}
}

// marks returns the AUDIT policy that matches the flow, and the dry-run policy
// that would deny it; nil for none.
func (g *guard) marks(f *authFacts) (audited, dryRun *Ref) {
	if g == nil {
		return nil, nil
	}
	for _, p := range g.audit {
		if p.match(f, asking{}) != nil {
			audited = p.ref
			break
		}
	}
	for _, p := range g.dryDeny {
		if p.match(f, asking{deny: true}) != nil {
			return audited, p.ref
		}
	}
	for _, p := range g.dryAllow {
		if p.match(f, asking{}) != nil {
			return audited, nil
		}
	}
	if len(g.dryAllow) > 0 {
		dryRun = g.dryAllow[0].ref
	}
	return audited, dryRun
}

// match returns the first rule that matches, or nil.
func (p *authPolicy) match(f *authFacts, q asking) *authRule {
	for i := range p.rules {
		if p.rules[i].matches(f, q) {
			return &p.rules[i]
		}
	}
	return nil
}

func (r *authRule) matches(f *authFacts, q asking) bool {
	if len(r.sources) > 0 && !slices.ContainsFunc(r.sources, func(s *AuthSource) bool { return f.from(s.IPBlocks, s.NotIPBlocks, q) }) {
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

func (f *authFacts) from(nets, not []netip.Prefix, q asking) bool {
	if f.srcIs != known {
		return q.unknown(f.srcIs)
	}
	a := f.src.Unmap().WithZone("")
	has := func(p netip.Prefix) bool { return ipguard.Plain(p).Contains(a) }
	return (len(nets) == 0 || slices.ContainsFunc(nets, has)) && !slices.ContainsFunc(not, has)
}

// to is from for the destination, which may be many addresses.
func (f *authFacts) to(nets, not []netip.Prefix, q asking) bool {
	if f.dstIs != known {
		return q.unknown(f.dstIs)
	}
	part := func(list []netip.Prefix) (all, some bool) {
		for _, n := range list {
			some = some || n.Overlaps(f.dst)
			all = all || n.Bits() <= f.dst.Bits() && n.Contains(f.dst.Addr())
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
	return q.unknown(later) // some of the addresses: the one that is dialled tells
}

func (o *authOperation) matches(f *authFacts, q asking) bool {
	if len(o.Ports) > 0 && !slices.Contains(o.Ports, f.port) || slices.Contains(o.NotPorts, f.port) {
		return false
	}
	if len(o.Hosts)+len(o.NotHosts) > 0 && !f.onHost(o, q) {
		return false
	}
	if len(o.Methods)+len(o.NotMethods)+len(o.paths)+len(o.notPaths) == 0 {
		return true
	}
	if f.requestIs != known {
		return q.unknown(f.requestIs)
	}
	return match.OneOf(o.Methods, o.NotMethods, f.request.Method) && o.onPath(f.request.Path, q)
}

// onPath looks at a path as it was sent and as a server may read it: what is
// denied in either form is denied, what is to be allowed must be in both. A path
// with an escape that is none ("%u0061") has forms that nobody knows: it may be
// what is denied, and is not what is allowed.
func (o *authOperation) onPath(raw string, q asking) bool {
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
func (f *authFacts) onHost(o *authOperation, q asking) bool {
	if f.hostIs != known {
		return q.unknown(f.hostIs)
	}
	var buffer [272]byte // the longest name, a colon and a port
	with := append(append(buffer[:0], f.host...), ':')
	with = strconv.AppendUint(with, uint64(f.port), 10)
	has := func(list []ValueMatch) bool {
		for i := range list {
			if match.ValueMatches(list[i], f.host) || match.ValueMatchesBytes(&list[i], with) {
				return true
			}
		}
		return false
	}
	return (len(o.Hosts) == 0 || has(o.Hosts)) && !has(o.NotHosts)
}

func (c *authCondition) matches(f *authFacts, q asking) bool {
	switch c.key {
	case keyDestinationPort:
		return (len(c.ports) == 0 || slices.Contains(c.ports, f.port)) && !slices.Contains(c.notPorts, f.port)
	case keyDestinationIP:
		return f.to(c.nets, c.notNets, q)
	case keySourceIP, keyRemoteIP:
		return f.from(c.nets, c.notNets, q)
	case keySNI:
		if f.sniIs != known {
			return q.unknown(f.sniIs)
		}
		return match.OneOf(c.values, c.notValues, f.sni)
	}
	if c.header == "" {
		return q.unknown(never) // tokens and the like, which nothing here has
	}
	if f.requestIs != known {
		return q.unknown(f.requestIs)
	}
	return c.onHeader(f.request, q)
}

// onHeader looks at a header's lines joined by commas, which is how Envoy sees
// them, and at each alone, which is how a server may that takes the first or the
// last: what is denied in any form is denied, what is to be allowed must be in
// all. A comma within a line parts values as a line end does (RFC 9110, 5.3).
func (c *authCondition) onHeader(r *Request, q asking) bool {
	joined, _ := r.Field(c.header)
	has := func(v string) bool { return match.OneOf(c.values, c.notValues, v) }
	is := has(joined)
	for _, line := range r.Header[c.header] {
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
