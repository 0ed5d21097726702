// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/internal/cow"
	"github.com/egressd/egressd/policy/internal/authz"
)

// addressTable finds what an address and port open by themselves. The cost
// of a lookup grows with the number of different prefix lengths (at most 33
// for IPv4 and 129 for IPv6), not with the number of entries. It is immutable;
// an addressEdit makes the next one.
type addressTable struct {
	entries cow.Map[addressKey, *addressEntry]
	// near has the rules of each prefix, whatever their port: the nearest miss.
	near cow.Map[netip.Prefix, []addressRule]
	// count4 and count6 count the entries by prefix length; bits4 and bits6
	// are the lengths in use, longest first.
	count4       [33]int32
	count6       [129]int32
	bits4, bits6 []int
	// sum covers the order of rules that share an entry.
	sum digest
	// unknown says that what no rule names is open; inside are prefixes where
	// that is so anyhow.
	unknown bool
	inside  []netip.Prefix
}

// addressKey is a prefix, unmapped and masked, with a transport and a port.
type addressKey struct {
	prefix    netip.Prefix
	transport Transport
	port      uint16
}

// addressEntry is what rules open together, in order of precedence.
type addressEntry struct {
	candidates
	rules []addressRule
	// access is what the guards of rules and the node's operator say, and
	// whether a rule of another namespace comes before; nil when all is open. An
	// entry of which all rules are shut denies, whatever lies around it.
	access []authz.Access
}

// shut says whether guards have closed all of the entry.
func (e *addressEntry) shut() bool { return e.way.Verdict == Deny }

// addressRule is one thing that a service says about a prefix and port.
type addressRule struct {
	prefix  netip.Prefix
	port    uint16
	rule    *HostPort
	service *Service
	// way is what the kernel does with flows there, name what a ClientHello
	// must carry.
	way  Way
	name string
	// refused: the node's operator has not allowed what is there.
	refused bool
}

// of says whether a rule is of the same namespace as another. Where the
// address alone tells what a flow is for, rules of one namespace count: those
// of the first.
func (r addressRule) of(o addressRule) bool {
	return r.service.Ref.Namespace == o.service.Ref.Namespace
}

// named says whether flows to the port say for which name they are, so that
// several hosts can share an address.
func (hp *HostPort) named() bool { return hp.Protocol.IsHTTP() || hp.Protocol.IsTLS() }

// access is what the node's operator and guards say of flows to the rule's
// prefix.
func (r addressRule) access() authz.Access {
	if r.refused || r.way.Verdict == Deny {
		return authz.DenyAll
	}
	return r.rule.staticAccess(r.prefix)
}

// refusal says why a rule that is shut denies a flow to an address.
func (r addressRule) refusal(a netip.Addr) refusal {
	if r.refused {
		return refusal{ReasonEndpoint, r.rule.Rule}
	}
	return r.rule.refusal(r.rule.exactName(), a)
}

func (r addressRule) key() addressKey {
	return addressKey{r.prefix, r.rule.Protocol.Transport(), r.port}
}

var addressSeed = maphash.MakeSeed()

func hashPrefix(p netip.Prefix) uint64 {
	a := p.Addr().As16()
	var h maphash.Hash
	h.SetSeed(addressSeed)
	_, _ = h.Write(a[:]) // never fails
	_ = h.WriteByte(byte(p.Bits()))
	return h.Sum64()
}

func hashAddress(k addressKey) uint64 {
	return hashPrefix(k.prefix) + uint64(k.port)*0x9e3779b97f4a7c15 + uint64(k.transport)
}

func newAddressTable() addressTable {
	return addressTable{
		entries: cow.New[addressKey, *addressEntry](hashAddress),
		near:    cow.New[netip.Prefix, []addressRule](hashPrefix),
	}
}

// addressEdit collects changes to a copy of an addressTable.
type addressEdit struct {
	t       addressTable
	entries *cow.Edit[addressKey, *addressEntry]
	near    *cow.Edit[netip.Prefix, []addressRule]
	// dirty has the rules of the entries and prefixes that change.
	dirty     map[addressKey][]addressRule
	dirtyNear map[netip.Prefix][]addressRule
}

func (t *addressTable) edit() *addressEdit {
	return &addressEdit{t: *t, entries: t.entries.Edit(), near: t.near.Edit(),
		dirty: map[addressKey][]addressRule{}, dirtyNear: map[netip.Prefix][]addressRule{}}
}

func (e *addressEdit) open(r addressRule) {
	k := r.key()
	if _, ok := e.dirty[k]; !ok {
		var rules []addressRule
		if was, ok := e.entries.Get(k); ok {
			rules = slices.Clone(was.rules)
		}
		e.dirty[k] = rules
	}
	if _, ok := e.dirtyNear[r.prefix]; !ok {
		was, _ := e.near.Get(r.prefix)
		e.dirtyNear[r.prefix] = slices.Clone(was)
	}
}

func (e *addressEdit) add(r addressRule) {
	e.open(r)
	k := r.key()
	e.dirty[k] = append(e.dirty[k], r)
	e.dirtyNear[r.prefix] = append(e.dirtyNear[r.prefix], r)
}

func (e *addressEdit) remove(r addressRule) {
	e.open(r)
	k := r.key()
	is := func(o addressRule) bool { return o == r }
	e.dirty[k] = slices.DeleteFunc(e.dirty[k], is)
	e.dirtyNear[r.prefix] = slices.DeleteFunc(e.dirtyNear[r.prefix], is)
}

// finish returns the table; compare orders rules by precedence. Of a rule that
// was added twice one counts.
func (e *addressEdit) finish(compare func(x, y addressRule) int) addressTable {
	t := &e.t
	for k, rules := range e.dirty {
		was, had := e.entries.Get(k)
		if had {
			t.sum.toggle(was.sum(k))
			*t.counter(k.prefix)--
		}
		if len(rules) == 0 {
			e.entries.Delete(k)
			continue
		}
		now := newAddressEntry(k, rules, compare)
		e.entries.Set(k, now)
		t.sum.toggle(now.sum(k))
		*t.counter(k.prefix)++
	}
	for prefix, rules := range e.dirtyNear {
		if len(rules) == 0 {
			e.near.Delete(prefix)
			continue
		}
		if len(rules) > 1 {
			slices.SortStableFunc(rules, compare)
		}
		e.near.Set(prefix, rules)
	}
	t.entries, t.near = e.entries.Map(), e.near.Map()
	t.bits4, t.bits6 = inUse(t.count4[:]), inUse(t.count6[:])
	return *t
}

func newAddressEntry(k addressKey, rules []addressRule, compare func(x, y addressRule) int) *addressEntry {
	if len(rules) > 1 {
		slices.SortStableFunc(rules, compare)
		rules = slices.Compact(rules)
	}
	e := &addressEntry{rules: rules}
	blind := slices.ContainsFunc(rules, func(r addressRule) bool { return r.of(rules[0]) && !r.rule.named() })
	lost := func(r addressRule) bool { return !r.of(rules[0]) && (blind || !r.rule.named()) }
	if slices.ContainsFunc(rules, func(r addressRule) bool {
		return r.refused || r.rule.authorizer != nil || r.way.Verdict == Deny || lost(r)
	}) {
		e.access = make([]authz.Access, len(rules))
	}
	for i, r := range rules {
		way := r.way
		if e.access != nil {
			if e.access[i] = r.access(); lost(r) {
				e.access[i] = authz.DenyAll
			}
			way = way.limit(e.access[i], k.transport)
		}
		if way.Verdict == Deny {
			continue
		}
		e.add(nil, r.rule, "", way)
		if r.name != "" && way.Verdict == Inspect {
			e.names = append(e.names, r.name)
		}
	}
	slices.Sort(e.names)
	e.names = slices.Compact(e.names)
	return e
}

// sum is the digest of the order of the rules; a single one has no order.
func (e *addressEntry) sum(k addressKey) digest {
	var d digest
	if len(e.rules) > 1 {
		d.text(func(t *lines) {
			t.line(0, "%v %v %d", k.prefix, k.transport, k.port)
			for _, r := range e.rules {
				t.line(1, "%v %s %d", r.service.Ref, r.rule.host.Pattern, r.rule.Number)
			}
		})
	}
	return d
}

func (t *addressTable) counter(p netip.Prefix) *int32 {
	if p.Addr().Is4() {
		return &t.count4[p.Bits()]
	}
	return &t.count6[p.Bits()]
}

// inUse returns the indices of what is not 0, largest first.
func inUse(counts []int32) []int {
	var out []int
	for i := len(counts) - 1; i >= 0; i-- {
		if counts[i] != 0 {
			out = append(out, i)
		}
	}
	return out
}

// lengths returns the prefix lengths to try for an unmapped address.
func (t *addressTable) lengths(a netip.Addr) []int {
	switch {
	case a.Is4():
		return t.bits4
	case a.Is6():
		return t.bits6
	}
	return nil
}

// collect adds the rules for f's address and port to c, longest prefix first.
func (t *addressTable) collect(c *candidates, f *Flow) {
	a := f.Dst.Addr().Unmap().WithZone("")
	for _, bits := range t.lengths(a) {
		prefix, err := a.Prefix(bits)
		if err != nil {
			continue // cannot be: bits fits the family
		}
		e, ok := t.entries.Get(addressKey{prefix, f.Transport, f.Dst.Port()})
		if !ok {
			continue
		}
		c.merge(f, e, bits < a.BitLen())
		if e.shut() {
			return
		}
	}
}

// miss returns why no rule allows the address and port although the address
// is known: ReasonTransport or ReasonPort with the nearest rule, or "".
func (t *addressTable) miss(transport Transport, dst netip.AddrPort) (Reason, *HostPort) {
	var near *HostPort
	a := dst.Addr().Unmap().WithZone("")
	for _, bits := range t.lengths(a) {
		prefix, err := a.Prefix(bits)
		if err != nil {
			continue
		}
		if e, ok := t.entries.Get(addressKey{prefix, transport.Other(), dst.Port()}); ok {
			return ReasonTransport, e.rules[0].rule
		}
		if rules, ok := t.near.Get(prefix); ok && near == nil {
			near = rules[0].rule
		}
	}
	if near == nil {
		return "", nil
	}
	return ReasonPort, near
}

// openings returns the table as the kernel wants it: sorted, one entry for
// each prefix, transport, port and proved name.
func (t *addressTable) openings() []Opening {
	out := make([]Opening, 0, t.entries.Len())
	for k, e := range t.entries.All() {
		out = t.opening(out, k, e)
	}
	slices.SortFunc(out, compareOpening)
	return out
}

func compareOpening(a, b Opening) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		cmp.Compare(a.Transport, b.Transport), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Name, b.Name))
}

// opening adds what an entry opens to out. The kernel finds the longest
// prefix only, so an entry carries what the prefixes around it say as well.
func (t *addressTable) opening(out []Opening, k addressKey, e *addressEntry) []Opening {
	way := e.way
	if e.shut() {
		return t.closed(out, k)
	}
	for _, bits := range t.lengths(k.prefix.Addr()) {
		if bits >= k.prefix.Bits() {
			continue
		}
		around := netip.PrefixFrom(k.prefix.Addr(), bits).Masked()
		o, ok := t.entries.Get(addressKey{around, k.transport, k.port})
		if ok && o.shut() {
			break
		}
		if ok {
			way = way.Within(o.way, k.transport)
		}
	}
	o := Opening{Prefix: k.prefix, Port: k.port, Transport: k.transport, Verdict: way.Verdict, To: way.To}
	if way.Verdict != Inspect {
		return append(out, o)
	}
	for _, o.Name = range e.names {
		out = append(out, o)
	}
	return out
}

// closed adds what keeps an entry shut that nothing else in the kernel's
// tables would: the forwarding core, which denies. UDP has none, and is denied.
func (t *addressTable) closed(out []Opening, k addressKey) []Opening {
	covered := t.unknown || slices.ContainsFunc(t.inside, k.prefix.Overlaps)
	for _, bits := range t.lengths(k.prefix.Addr()) {
		if bits < k.prefix.Bits() && !covered {
			_, covered = t.entries.Get(addressKey{netip.PrefixFrom(k.prefix.Addr(), bits).Masked(), k.transport, k.port})
		}
	}
	if !covered {
		return out
	}
	return append(out, Opening{Prefix: k.prefix, Port: k.port, Transport: k.transport, Verdict: Proxy})
}
