// SPDX-License-Identifier: Apache-2.0

package tables

import (
	"cmp"
	"maps"
	"slices"

	"github.com/egressd/egressd/policy"
)

// entry is what a prefix, transport and port open by themselves by a change.
type entry struct {
	// addr is the key of a single address, net that of a prefix.
	addr  AddrKey
	net   CidrKey
	isNet bool
	way   policy.Way
	names map[serverName]bool
	// unknown says that without an entry it is open.
	unknown bool
}

// Tighten takes away what a change no longer opens and lifts verdicts that look
// more closely now; it opens nothing. Lists of endpoints are changed by Loosen:
// what connects to an old endpoint meanwhile is decided again when the epoch
// rises. There is an error before anything is changed when there is no room for
// what Loosen will write. Of a change from what is not known (Change.Old) the
// tables are read first, and what is not in it goes as well.
func (t *Tables) Tighten(c policy.Change) error {
	if c.Old == nil {
		if err := t.read(); err != nil {
			return err
		}
		if err := t.mendKnown(); err != nil {
			return err
		}
	}
	if err := t.Collect(); err != nil {
		return err
	}
	list := t.entries(c)
	if err := t.reserve(list); err != nil {
		return err
	}
	for _, e := range list {
		if err := t.tighten(e); err != nil {
			return err
		}
	}
	return nil
}

// Loosen brings the entries of the policies in a change to exactly what it
// says, after Tighten. What was learned stays; see SetAddress.
func (t *Tables) Loosen(c policy.Change) error {
	if err := t.Collect(); err != nil {
		return err
	}
	list := t.entries(c)
	slices.Reverse(list)
	for _, e := range list {
		if err := t.loosen(e); err != nil {
			return err
		}
	}
	return nil
}

// Retire takes away what policies open by themselves that are not there after
// a change.
func (t *Tables) Retire(c policy.Change) error {
	gone := func(id policy.PolicyID) bool { return slices.Contains(c.Gone, id) }
	if c.Old == nil {
		gone = func(id policy.PolicyID) bool { return !c.Has(id) }
	} else if len(c.Gone) == 0 {
		return nil
	}
	list := t.found(gone, nil)
	for _, e := range ordered(list) {
		if err := t.loosen(e); err != nil {
			return err
		}
	}
	return nil
}

// entries are what a change changes, in the order in which it is taken away: an
// entry can be there to close what one for a larger prefix opens.
func (t *Tables) entries(c policy.Change) []entry {
	var list []entry
	ids := map[policy.PolicyID]bool{}
	for _, p := range c.Policies {
		ids[p.ID] = true
		for _, s := range p.Static {
			list = append(list, entryOf(p, s))
		}
	}
	if c.Old == nil {
		list = append(list, t.found(func(id policy.PolicyID) bool { return ids[id] }, list)...)
	}
	return ordered(list)
}

func entryOf(p policy.PolicyChange, s policy.StaticChange) entry {
	e := entry{isNet: !s.Prefix.IsSingleIP(), unknown: p.Unknown}
	// A prefix of one address that is open on every port is looked for among
	// prefixes.
	e.isNet = e.isNet || s.Inside && s.Port == 0
	if e.isNet {
		e.net = cidrOf(p.ID, s.Prefix, s.Transport, s.Port)
		e.net.Inside = insideOf(s)
	} else {
		e.addr = keyOf(p.ID, s.Prefix, s.Transport, s.Port)
		e.addr.Inside = insideOf(s)
	}
	for _, o := range s.Openings {
		e.way = e.way.Join(wayOf(o), s.Transport)
		if o.Verdict == policy.Inspect && o.Name != "" {
			if e.names == nil {
				e.names = map[serverName]bool{}
			}
			e.names[serverName{NetworkOrder(o.Port), o.Name}] = true
		}
	}
	return e
}

// insideOf tells the kernel that an entry stands behind all others.
func insideOf(s policy.StaticChange) uint8 {
	if s.Inside {
		return 1
	}
	return 0
}

// found are the entries of some policies that there are beside those of a
// list, as entries that open nothing.
func (t *Tables) found(of func(policy.PolicyID) bool, beside []entry) (out []entry) {
	addrs, nets := map[AddrKey]bool{}, map[CidrKey]bool{}
	for _, e := range beside {
		if e.isNet {
			nets[e.net] = true
		} else {
			addrs[e.addr] = true
		}
	}
	addr := func(k AddrKey) {
		if !addrs[k] && of(policy.PolicyID(k.Policy)) {
			addrs[k] = true
			out = append(out, entry{addr: k})
		}
	}
	for _, by := range []map[AddrKey]policy.Way{t.haveAdr, t.static, t.learned} {
		for k := range by {
			addr(k)
		}
	}
	for _, by := range []map[KnownKey]map[serverName]bool{t.serverNames, t.named} {
		for k, names := range by {
			for p := range names {
				addr(AddrKey{Policy: k.Policy, Port: p.port, Proto: uint8(policy.TCP), Addr: k.Addr})
			}
		}
	}
	for k := range t.haveNet {
		if !nets[k] && of(policy.PolicyID(k.Policy)) {
			out = append(out, entry{net: k, isNet: true})
		}
	}
	return out
}

// ordered sorts entries: the largest prefixes first, and addresses last.
func ordered(list []entry) []entry {
	size := func(e entry) int {
		if e.isNet {
			return int(e.net.Prefixlen)
		}
		return 1 << 10
	}
	slices.SortStableFunc(list, func(a, b entry) int { return cmp.Compare(size(a), size(b)) })
	return list
}

// reserve makes room for what entries open.
func (t *Tables) reserve(list []entry) error {
	addrs, fresh, names := len(t.haveAdr), map[KnownKey]bool{}, t.stores.Names.Len()
	for _, e := range list {
		if e.isNet {
			continue
		}
		k := e.addr
		known := knownOf(k)
		_, have := t.haveAdr[k]
		open := join(e.way, t.learned[k], k).Verdict != policy.Deny
		switch {
		case have && !open:
			addrs--
		case !have && open:
			addrs++
			fresh[known] = len(t.known[known]) == 0
		}
		for p := range e.names {
			if !t.serverNames[known][p] {
				names++
			}
		}
		for p := range t.serverNames[known] {
			if k.Inside == 0 && p.port == k.Port && !e.names[p] && !t.wanted[known][p] {
				names--
			}
		}
	}
	known := len(t.known)
	for _, is := range fresh {
		if is {
			known++
		}
	}
	if err := t.stores.Addrs.Reserve(addrs); err != nil {
		return err
	}
	// What goes is not taken off, but there are never more than addresses.
	if err := t.stores.Known.Reserve(min(known, addrs)); err != nil {
		return err
	}
	return t.stores.Names.Reserve(names)
}

func (t *Tables) tighten(e entry) error {
	if e.isNet {
		have, ok := t.haveNet[e.net]
		switch {
		case ok && e.way.Verdict == policy.Deny:
			return t.dropNet(e.net)
		case closer(have, ok, e):
			return t.putNet(e.net, e.way)
		}
		return nil
	}
	k := e.addr
	known := knownOf(k)
	// What is learned meanwhile is joined with what both policies open.
	was, is := t.static[k]
	switch {
	case e.way.Verdict == policy.Deny:
		delete(t.static, k)
	case closer(was, is, e):
		t.static[k] = e.way
	}
	if k.Inside == 0 {
		t.name(known, k.Port, e.names)
	}
	have, ok := t.haveAdr[k]
	want := entry{way: join(e.way, t.learned[k], k), unknown: e.unknown}
	switch {
	case ok && want.way.Verdict == policy.Deny:
		if err := t.dropAddr(k); err != nil {
			return err
		}
	case closer(have, ok, want):
		// A name is there before a connection can be judged by it.
		if err := t.addServerNames(known, e.names); err != nil {
			return err
		}
		if err := t.putAddr(k, want.way); err != nil {
			return err
		}
	}
	if k.Inside != 0 {
		return nil // the names are those of the entry before it
	}
	return t.removeStaleNames(known, k.Port, e.names)
}

// closer says whether an entry looks more closely than what there is.
func closer(have policy.Way, ok bool, e entry) bool {
	if !ok {
		return e.unknown && e.way.Verdict > policy.Direct
	}
	return e.way.Verdict > have.Verdict
}

func (t *Tables) loosen(e entry) error {
	if e.isNet {
		have, ok := t.haveNet[e.net]
		switch {
		case ok && e.way.Verdict == policy.Deny:
			return t.dropNet(e.net)
		case have != e.way:
			return t.putNet(e.net, e.way)
		}
		return nil
	}
	k := e.addr
	known := knownOf(k)
	if e.way.Verdict == policy.Deny {
		delete(t.static, k)
	} else {
		t.static[k] = e.way
	}
	if k.Inside == 0 {
		t.name(known, k.Port, e.names)
	}
	for _, names := range []map[serverName]bool{e.names, t.wanted[known]} { // the table may have lost what was learned
		if err := t.addServerNames(known, names); err != nil {
			return err
		}
	}
	have, ok := t.haveAdr[k]
	want := join(e.way, t.learned[k], k)
	switch {
	case ok && want.Verdict == policy.Deny:
		if err := t.dropAddr(k); err != nil {
			return err
		}
	case have != want:
		if err := t.putAddr(k, want); err != nil {
			return err
		}
	}
	if k.Inside != 0 {
		return nil // the names are those of the entry before it
	}
	return t.removeStaleNames(known, k.Port, e.names)
}

// name replaces the names that the static openings of an address allow on a
// port (network order).
func (t *Tables) name(known KnownKey, port uint16, names map[serverName]bool) {
	all := t.named[known]
	maps.DeleteFunc(all, func(p serverName, _ bool) bool { return p.port == port })
	if all == nil && len(names) > 0 {
		all = map[serverName]bool{}
		t.named[known] = all
	}
	maps.Copy(all, names)
	if len(all) == 0 {
		delete(t.named, known)
	}
}

// removeStaleNames removes the names that are allowed at an address on a port, but these and
// those that were learned.
func (t *Tables) removeStaleNames(known KnownKey, port uint16, names map[serverName]bool) error {
	return t.dropServerNames(known, func(p serverName) bool { return p.port != port || names[p] || t.wanted[known][p] })
}
