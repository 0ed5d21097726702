// SPDX-License-Identifier: Apache-2.0

package policy

import "github.com/egressd/egressd/policy/internal/authz"

// candidates are the rules that may apply to a flow whose name is not known
// yet: the first of each kind, and what the kernel does with the flow.
type candidates struct {
	first, http, tls *HostPort
	firstBy          string // the learned name that first was found by, if any
	// opaque is a TCP rule, unset one without a protocol.
	opaque, unset *HostPort
	// The learned names that opaque and unset were found by, if any.
	opaqueName, unsetName string
	// home is the namespace whose rules come before those of others.
	home string
	way  Way
	// names are proved by an entry of the address table.
	names []string
	// refused is why an authorizer denies what is not among the rules for that.
	refused refusal
}

// add adds a rule that was found by name, or by address when name is "".
func (c *candidates) add(f *Flow, hp *HostPort, name string, way Way) {
	c.note(f, hp, name)
	c.way = c.way.Join(way, hp.Protocol.Transport())
}

// refuse notes why a rule is not among the candidates.
func (c *candidates) refuse(r refusal) {
	if c.refused.reason == "" {
		c.refused = r
	}
}

// note adds what kind of rule hp is. An opaque flow of f's must be allowed as
// it is; without f that is looked at later.
func (c *candidates) note(f *Flow, hp *HostPort, name string) {
	unset := hp.Protocol == ProtocolUnset
	if c.before(hp, c.first) {
		c.first, c.firstBy = hp, name
	}
	if c.http == nil && (unset || hp.Protocol.IsHTTP()) {
		c.http = hp
	}
	if c.tls == nil && (unset || hp.Protocol.IsTLS()) {
		c.tls = hp
	}
	if hp.Protocol != ProtocolTCP && !unset {
		return
	}
	if f != nil && hp.authorizer != nil {
		if r := hp.refusesOpaque(f, name); r.reason != "" {
			c.refuse(r)
			return
		}
	}
	switch {
	case !unset && c.before(hp, c.opaque):
		c.opaque, c.opaqueName = hp, name
	case unset && c.before(hp, c.unset):
		c.unset, c.unsetName = hp, name
	}
}

// before says whether a rule that comes after another has its way all the
// same: it is of the workload's own namespace, and the other is not.
func (c *candidates) before(hp, other *HostPort) bool {
	return other == nil || c.own(hp) && !c.own(other)
}

func (c *candidates) own(hp *HostPort) bool { return c.home != "" && hp.Rule.Namespace == c.home }

// unread is the rule for flows whose bytes are not read, and the name that it
// was found by: one for opaque TCP rather than one without a protocol, unless
// the latter alone is of the workload's namespace, or was found by a name.
func (c *candidates) unread() (*HostPort, string) {
	if c.unset != nil {
		switch {
		case c.opaque == nil, c.own(c.unset) && !c.own(c.opaque):
			return c.unset, c.unsetName
		case c.own(c.unset) == c.own(c.opaque) && c.unsetName != "" && c.opaqueName == "":
			return c.unset, c.unsetName
		}
	}
	return c.opaque, c.opaqueName
}

// merge adds what an entry of the address table holds; around says that its
// prefix lies around what was added before.
func (c *candidates) merge(f *Flow, e *addressEntry, around bool) {
	if f != nil && f.Trace != nil {
		for i := range e.rules {
			f.Trace.kernelPort(e.rules[i].rule, e.rules[i].rule.exactName(), f.Dst.Addr())
		}
	}
	if e.access == nil {
		for _, hp := range [...]*HostPort{e.first, e.http, e.tls, e.opaque, e.unset} {
			if hp != nil {
				c.note(f, hp, "")
			}
		}
	}
	for i, a := range e.access {
		hp := e.rules[i].rule
		if a == authz.DenyAll || a == authz.Undecided && f.Transport == UDP {
			c.refuse(e.rules[i].refusal(f.Dst.Addr()))
			continue
		}
		c.note(f, hp, "")
	}
	switch t := f.Transport; {
	case around:
		c.way = c.way.Within(e.way, t)
	default:
		c.way = c.way.Join(e.way, t)
	}
}

// candidates collects what may apply to f before its name is known. Names
// that the address was learned for have precedence over the address itself.
func (p *Policy) candidates(f *Flow) candidates {
	c := candidates{home: p.class.home}
	for _, n := range f.Names {
		_, hp := p.LookupPort(n, f.Transport, f.Dst.Port())
		if hp == nil || p.outside(hp, f.Dst.Addr()) {
			continue
		}
		f.Trace.kernelPort(hp, n, f.Dst.Addr())
		way := hp.wayOf(n, f.Dst.Addr())
		if way.Verdict == Deny {
			c.refuse(hp.refusal(n, f.Dst.Addr()))
			continue
		}
		c.add(f, hp, n, way)
	}
	p.addrs.collect(&c, f)
	return c
}

// firstName is the name that the first candidate stands for, "" for many.
func (c *candidates) firstName() string {
	if c.firstBy != "" {
		return c.firstBy
	}
	return c.first.exactName()
}
