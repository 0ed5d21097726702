// SPDX-License-Identifier: Apache-2.0

package policy

// candidates are the rules that may apply to a flow whose name is not known
// yet: the first of each kind, and what the kernel does with the flow.
type candidates struct {
	first, http, tls *HostPort
	firstBy          string // the learned name that first was found by, if any
	// opaque is a TCP rule, unset one without a protocol.
	opaque, unset *HostPort
	// The learned names that opaque and unset were found by, if any.
	opaqueName, unsetName string
	way                   Way
	// names are proved by an entry of the address table.
	names []string
	// refused is why a guard denies what is not among the rules for that.
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
	if c.first == nil {
		c.first = hp
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
	if f != nil && hp.guard != nil {
		if r := hp.refusesOpaque(f, name); r.reason != "" {
			c.refuse(r)
			return
		}
	}
	if c.opaque == nil && !unset {
		c.opaque, c.opaqueName = hp, name
	}
	if c.unset == nil && unset {
		c.unset, c.unsetName = hp, name
	}
}

// merge adds what an entry of the address table holds; around says that its
// prefix lies around what was added before.
func (c *candidates) merge(f *Flow, e *addressEntry, around bool) {
	if e.access == nil {
		for _, hp := range [...]*HostPort{e.first, e.http, e.tls, e.opaque, e.unset} {
			if hp != nil {
				c.note(f, hp, "")
			}
		}
	}
	for i, a := range e.access {
		hp := e.rules[i].rule
		if a == shut || a == depends && f.Transport == UDP {
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
func (p *Policy) candidates(f Flow) candidates {
	var c candidates
	for _, n := range f.Names {
		_, hp := p.LookupPort(n, f.Transport, f.Dst.Port())
		if hp == nil {
			continue
		}
		way := hp.wayOf(n, f.Dst.Addr())
		if way.Verdict == Deny {
			c.refuse(hp.refusal(n, f.Dst.Addr()))
			continue
		}
		if c.first == nil {
			c.firstBy = n
		}
		c.add(&f, hp, n, way)
	}
	p.addrs.collect(&c, &f)
	return c
}

// firstName is the name that the first candidate stands for, "" for many.
func (c *candidates) firstName() string {
	if c.firstBy != "" {
		return c.firstBy
	}
	return c.first.exactName()
}
