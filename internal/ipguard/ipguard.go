// SPDX-License-Identifier: Apache-2.0

// Package ipguard says which IP addresses a DNS answer may name: it puts an
// address into one class and decides, from the class alone, whether the
// address may be learned for a name.
//
// A name that resolves to loopback, to a metadata service or to one of the
// node's own addresses would turn the gateway into a way around the very
// boundary it guards (DNS rebinding, SSRF), so such answers are refused
// whatever the policy allows; only an address that a ServiceEntry itself
// writes down is good without a look at its class.
package ipguard

import (
	"net/netip"
	"slices"
)

// Class is the kind of an address. The zero value is not a kind that Check
// accepts, so that a forgotten classification refuses.
type Class uint8

// The classes.
const (
	// Invalid is the zero netip.Addr, or an address with a zone (a zone never
	// comes out of a DNS answer, and it names an interface of this node).
	Invalid Class = iota
	// Public is everything that is not in one of the other classes. The
	// documentation blocks (RFC 5737, RFC 3849) and the benchmarking block
	// 198.18.0.0/15 (RFC 2544) count as public: they lead nowhere on a real
	// network, so refusing them protects nothing, while labs and tests use
	// them as stand-ins for the Internet.
	Public
	// Private is RFC 1918, the CGNAT block 100.64.0.0/10 (RFC 6598) and
	// unique local IPv6 fc00::/7 (RFC 4193).
	Private
	// Loopback is 127.0.0.0/8 and ::1.
	Loopback
	// LinkLocal is 169.254.0.0/16 (with the metadata address 169.254.169.254),
	// fe80::/10 and the deprecated site-local fec0::/10 (RFC 3879).
	LinkLocal
	// Metadata is a cloud metadata service outside of the link-local ranges.
	Metadata
	// Unspecified is "this network" 0.0.0.0/8 (RFC 1122; Linux connects
	// 0.0.0.0 to itself) and ::.
	Unspecified
	// Multicast is 224.0.0.0/4 and ff00::/8.
	Multicast
	// Reserved is 240.0.0.0/4 with the limited broadcast address, the IETF
	// protocol block 192.0.0.0/24 (RFC 6890), the 6to4 relay anycast block
	// 192.88.99.0/24 (RFC 7526), the discard prefix 100::/64 (RFC 6666) and,
	// in IPv6, everything outside of the allocated 2000::/3 that has no
	// class of its own.
	Reserved
	// Embedded is an IPv6 address that carries an IPv4 address: v4-mapped,
	// v4-compatible, v4-translated, 6to4, Teredo, ISATAP. A translator
	// on the path would deliver it to the address inside, which no check of
	// the outer address has seen. An address of NAT64 (RFC 6052, RFC 8215),
	// which is how networks without IPv4 reach it, has the class of the
	// address inside.
	Embedded
	// Own is an address of this node.
	Own
)

var classNames = [...]string{
	"invalid", "public", "private", "loopback", "link-local", "metadata",
	"unspecified", "multicast", "reserved", "embedded", "own",
}

// String is the class's stable name, as it appears in events and metrics.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return "invalid"
}

// Forbidden says that no answer may name an address of the class, whatever
// name was asked for.
func (c Class) Forbidden() bool { return c != Public && c != Private }

type block struct {
	prefix netip.Prefix
	class  Class
}

// blocks are looked through in order: the first prefix that holds the address
// gives the class, so the narrower ones come first.
var blocks4 = []block{
	{netip.MustParsePrefix("168.63.129.16/32"), Metadata},   // Azure WireServer
	{netip.MustParsePrefix("100.100.100.200/32"), Metadata}, // Alibaba Cloud
	{netip.MustParsePrefix("192.0.0.192/32"), Metadata},     // Oracle Cloud at Classic
	{netip.MustParsePrefix("0.0.0.0/8"), Unspecified},
	{netip.MustParsePrefix("10.0.0.0/8"), Private},
	{netip.MustParsePrefix("100.64.0.0/10"), Private},
	{netip.MustParsePrefix("127.0.0.0/8"), Loopback},
	{netip.MustParsePrefix("169.254.0.0/16"), LinkLocal},
	{netip.MustParsePrefix("172.16.0.0/12"), Private},
	{netip.MustParsePrefix("192.0.0.0/24"), Reserved},
	{netip.MustParsePrefix("192.88.99.0/24"), Reserved},
	{netip.MustParsePrefix("192.168.0.0/16"), Private},
	{netip.MustParsePrefix("224.0.0.0/4"), Multicast},
	{netip.MustParsePrefix("240.0.0.0/4"), Reserved},
}

var blocks6 = []block{
	{netip.MustParsePrefix("::/128"), Unspecified},
	{netip.MustParsePrefix("::1/128"), Loopback},
	{netip.MustParsePrefix("::ffff:0:0/96"), Embedded},   // v4-mapped, RFC 4291
	{netip.MustParsePrefix("::ffff:0:0:0/96"), Embedded}, // v4-translated, RFC 2765
	{netip.MustParsePrefix("::/96"), Embedded},           // v4-compatible, RFC 4291
	{netip.MustParsePrefix("2001::/32"), Embedded},       // Teredo, RFC 4380
	{netip.MustParsePrefix("2002::/16"), Embedded},       // 6to4, RFC 3056
	{netip.MustParsePrefix("100::/64"), Reserved},
	{netip.MustParsePrefix("fd00:ec2::254/128"), Metadata},      // EC2 IMDS
	{netip.MustParsePrefix("fd20:ce::254/128"), Metadata},       // Google Cloud
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), Metadata}, // Oracle Cloud
	{netip.MustParsePrefix("fc00::/7"), Private},
	{netip.MustParsePrefix("fe80::/10"), LinkLocal},
	{netip.MustParsePrefix("fec0::/10"), LinkLocal},
	{netip.MustParsePrefix("ff00::/8"), Multicast},
}

var globalUnicast6 = netip.MustParsePrefix("2000::/3")

// Classify puts an address into its class. It knows nothing of the node: Own
// never comes out of it (see Guard).
func Classify(a netip.Addr) Class {
	if !a.IsValid() || a.Zone() != "" {
		return Invalid
	}
	if a.Is4() {
		return lookup(blocks4, a, Public)
	}
	if inside := inside64(a); inside != nil {
		return classify64(inside, Classify)
	}
	if c := lookup(blocks6, a, Invalid); c != Invalid {
		if c == Private && isISATAP(a) {
			return Embedded
		}
		return c
	}
	if isISATAP(a) {
		return Embedded
	}
	if !globalUnicast6.Contains(a) {
		return Reserved
	}
	return Public
}

func lookup(blocks []block, a netip.Addr, otherwise Class) Class {
	for i := range blocks {
		if blocks[i].prefix.Contains(a) {
			return blocks[i].class
		}
	}
	return otherwise
}

// isISATAP finds the interface identifiers 0000:5efe:a.b.c.d and
// 0200:5efe:a.b.c.d (RFC 5214 section 6.1), whatever the prefix.
func isISATAP(a netip.Addr) bool {
	b := a.As16()
	return (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
}

// PrivateRule says what a Guard does with Private answers.
type PrivateRule uint8

// The rules for private answers of a node.
const (
	// PrivateExact, the default: good for a host that the policy names
	// exactly, refused for a name that only a wildcard matched, unless the
	// ServiceEntry allows it. Databases in one's own network are everyday
	// ServiceEntries; a wildcard's owner, though, can point any name inside.
	PrivateExact PrivateRule = iota
	// PrivateNever refuses private answers unless the ServiceEntry allows
	// them (AllowPrivate) or names the address.
	PrivateNever
	// PrivateAlways takes private answers for every allowed name.
	PrivateAlways
)

// Guard decides whether an answer may be learned on this node. It is safe for
// concurrent use; the zero Guard knows no own addresses.
type Guard struct {
	own     *Addresses
	private PrivateRule
}

// New returns a Guard of a node whose addresses stay as they are.
func New(own []netip.Addr) Guard {
	o := new(Addresses)
	prefixes := make([]netip.Prefix, len(own))
	for i, a := range own {
		a = a.WithZone("")
		prefixes[i] = netip.PrefixFrom(a, a.BitLen())
	}
	o.Set(prefixes)
	return Guard{own: o}
}

// NewLive returns a Guard of a node that has, at each Check, the addresses
// that own then has.
func NewLive(own *Addresses) Guard { return Guard{own: own} }

// Owns says whether an address is one of the node's.
func (g Guard) Owns(a netip.Addr) bool { return g.own.Has(a) }

// WithPrivate returns a copy of g with another rule for private answers.
func (g Guard) WithPrivate(r PrivateRule) Guard {
	g.private = r
	return g
}

// Options say for what the answer would be learned.
type Options struct {
	// Exact: the name is a host that the policy names, not one that only a
	// wildcard matched.
	Exact bool
	// AllowPrivate: the ServiceEntry takes private answers for its wildcards.
	AllowPrivate bool
	// Literal holds the addresses that the ServiceEntry itself names. They
	// are good whatever class they have: its author has decided.
	Literal []netip.Prefix
}

// Check says whether address a may be learned, and its class.
func (g Guard) Check(a netip.Addr, o Options) (ok bool, c Class) {
	c = g.classify(a)
	if c == Invalid {
		return false, c
	}
	for _, p := range o.Literal {
		if p.Contains(a) {
			return true, c
		}
	}
	switch c {
	case Public:
		return true, c
	case Private:
		return o.AllowPrivate || g.private == PrivateAlways || (g.private == PrivateExact && o.Exact), c
	}
	return false, c
}

func (g Guard) classify(a netip.Addr) Class {
	c := Classify(a)
	// A forbidden class says more than Own does (127.0.0.1 is both).
	if c.Forbidden() {
		return c
	}
	// A translator may lead back to the node.
	if g.own.Has(a) || slices.ContainsFunc(inside64(a), g.own.Has) {
		return Own
	}
	return c
}

// Plain returns a prefix masked, and an IPv4-mapped one as IPv4.
func Plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
