// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned"
)

// maxChain bounds the CNAMEs and DNAMEs that are followed in one answer.
const maxChain = 16

// rules are what an answer is filtered by. Nil functions allow everything.
type rules struct {
	// address says whether the queried name may have the address.
	address func(netip.Addr) bool
	// target says whether an HTTPS or SVCB record may send the client to
	// another name (as a message spells it).
	target func(string) bool
	// maxTTL caps all times to live, in seconds.
	maxTTL uint32
	// dnssec keeps signatures.
	dnssec bool
	// plain leaves out what no connection needs: see plainType.
	plain bool
}

// filtered is what is left of an upstream's reply.
type filtered struct {
	answer, ns []dns.RR
	// addrs are the addresses in answer. Their TTL is the shortest on the
	// way from the queried name.
	addrs []learned.Record
	// refused are the addresses that rules.address took out.
	refused []netip.Addr
	// stripped counts the records that were taken out or changed for other
	// reasons.
	stripped int
}

// modified says whether what the upstream verified may no longer hold.
func (f *filtered) modified() bool { return f.stripped > 0 || len(f.refused) > 0 }

// filter keeps of rep what answers q: the chain of aliases that starts at the
// queried name, and the records of the asked type at its end. Whatever else
// the reply carries could be about names that nobody asked for, and is
// dropped. rep's records are changed in place.
func filter(rep *dns.Msg, q dns.Question, r rules) filtered {
	var f filtered
	c := follow(rep.Answer, q)
	// Who has the keys of a signature is free in what it says.
	r.dnssec = r.dnssec && !r.plain
	altered := false // the asked type's records are not the signed ones
	for i, rr := range rep.Answer {
		h := rr.Header()
		switch {
		case h.Class == dns.ClassINET && c.links[i]:
			f.answer = append(f.answer, rr)
		case h.Class == dns.ClassINET && h.Rrtype == q.Qtype && canonical(h.Name) == c.end():
			if !f.take(rr, c, rep.Rcode, r) {
				altered = true
			}
		case h.Rrtype != dns.TypeRRSIG:
			f.stripped++
		}
	}
	if r.dnssec && q.Qtype != dns.TypeRRSIG {
		for _, rr := range rep.Answer {
			sig, ok := rr.(*dns.RRSIG)
			if ok && slices.Contains(c.owners, canonical(sig.Hdr.Name)) && (!altered || sig.TypeCovered != q.Qtype) {
				f.answer = append(f.answer, rr)
			}
		}
	}
	f.authority(rep.Ns, c, r)
	for _, rr := range slices.Concat(f.answer, f.ns) {
		h := rr.Header()
		h.Ttl = min(h.Ttl, r.maxTTL)
		// The letters of a name that was asked are the asker's; nobody else's
		// case means anything.
		if h.Name = canonical(h.Name); h.Name == c.owners[0] {
			h.Name = q.Name
		}
		if r.plain {
			plainRecord(rr)
		}
	}
	return f
}

// take adds one record of the asked type. False: it was left out or changed.
func (f *filtered) take(rr dns.RR, c chain, rcode int, r rules) bool {
	var ip net.IP
	switch v := rr.(type) {
	case *dns.A:
		ip = v.A.To4()
	case *dns.AAAA:
		if len(v.AAAA) == net.IPv6len {
			ip = v.AAAA // a mapped address stays one: the guard refuses it
		}
	case *dns.HTTPS:
		return f.takeService(rr, &v.SVCB, c, r)
	case *dns.SVCB:
		return f.takeService(rr, v, c, r)
	default:
		f.answer = append(f.answer, rr)
		return true
	}
	addr, ok := netip.AddrFromSlice(ip)
	if !ok || rcode != dns.RcodeSuccess {
		f.stripped++ // no address, or one of a name that does not exist
		return false
	}
	if r.address != nil && !r.address(addr) {
		f.refused = append(f.refused, addr)
		return false
	}
	f.answer = append(f.answer, rr)
	f.addrs = append(f.addrs, learned.Record{Addr: addr, TTL: time.Duration(min(c.ttl, rr.Header().Ttl)) * time.Second})
	return true
}

// takeService adds an HTTPS or SVCB record (RFC 9460) without what would hide
// the name in the ClientHello, and without address hints: only A and AAAA
// answers are learned, so a client must ask for them. A record that points to
// a name which the policy does not allow is left out; clients go on with the
// host itself then (section 3).
func (f *filtered) takeService(rr dns.RR, s *dns.SVCB, c chain, r rules) bool {
	target := canonical(s.Target)
	if target != "." && !slices.Contains(c.owners, target) && r.target != nil && !r.target(strings.TrimSuffix(target, ".")) {
		f.stripped++
		return false
	}
	changed := false
	if r.plain {
		var ok bool
		if changed, ok = plainService(s); !ok {
			f.stripped++
			return false
		}
	}
	f.answer = append(f.answer, rr)
	before := len(s.Value)
	s.Value = slices.DeleteFunc(s.Value, func(kv dns.SVCBKeyValue) bool { return hidden(kv.Key()) })
	if len(s.Value) == before && !changed {
		return true
	}
	f.stripped++
	// "mandatory" must not list keys that are not there (section 8).
	s.Value = slices.DeleteFunc(s.Value, func(kv dns.SVCBKeyValue) bool {
		m, ok := kv.(*dns.SVCBMandatory)
		if ok {
			m.Code = slices.DeleteFunc(m.Code, hidden)
		}
		return ok && len(m.Code) == 0
	})
	return false
}

// hidden says which service parameters no client gets to see.
func hidden(k dns.SVCBKey) bool {
	return k == dns.SVCB_ECHCONFIG || k == dns.SVCB_IPV4HINT || k == dns.SVCB_IPV6HINT
}

// authority keeps what a negative answer needs (RFC 2308) and its proof: the
// SOA of a zone that one of the names is in. The additional section is dropped
// whole: all it could add are addresses that were not asked for.
func (f *filtered) authority(ns []dns.RR, c chain, r rules) {
	for _, rr := range ns {
		switch rr.(type) {
		case *dns.SOA:
			zone := rr.Header().Name
			if slices.ContainsFunc(c.owners, func(name string) bool { return dns.IsSubDomain(zone, name) }) {
				f.ns = append(f.ns, rr)
			}
		case *dns.NSEC, *dns.NSEC3, *dns.RRSIG:
			if r.dnssec {
				f.ns = append(f.ns, rr)
			}
		}
	}
}

// chain is the way of aliases from the queried name.
type chain struct {
	owners []string     // canonical names, the queried one first
	links  map[int]bool // indexes of the CNAMEs and DNAMEs on the way
	ttl    uint32       // the shortest of the links, in seconds
}

func (c *chain) end() string { return c.owners[len(c.owners)-1] }

// follow walks the aliases in answer from the queried name. It stops at a
// loop and after maxChain steps.
func follow(answer []dns.RR, q dns.Question) chain {
	c := chain{owners: []string{canonical(q.Name)}, links: map[int]bool{}, ttl: 1<<32 - 1}
	if q.Qtype == dns.TypeCNAME || q.Qtype == dns.TypeDNAME {
		return c
	}
	for range maxChain {
		next := ""
		for i, rr := range answer {
			to := ""
			switch v := rr.(type) {
			case *dns.CNAME:
				if canonical(v.Hdr.Name) == c.end() {
					to = canonical(v.Target)
				}
			case *dns.DNAME:
				// RFC 6672, section 2.2: the labels before the owner stay.
				// A dot may be part of a label, so labels are compared.
				owner := canonical(v.Hdr.Name)
				if head, ok := strings.CutSuffix(c.end(), "."+owner); ok && dns.IsSubDomain(owner, c.end()) {
					to = canonical(head + "." + v.Target)
				}
			}
			// A DNAME comes with the CNAME made from it: both are links when
			// they agree.
			if to != "" && rr.Header().Class == dns.ClassINET && (next == "" || next == to) {
				next = to
				c.links[i] = true
				c.ttl = min(c.ttl, rr.Header().Ttl)
			}
		}
		if next == "" || slices.Contains(c.owners, next) {
			break
		}
		c.owners = append(c.owners, next)
	}
	return c
}

func canonical(name string) string { return dns.CanonicalName(name) }
