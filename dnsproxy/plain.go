// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"slices"

	"github.com/miekg/dns"
)

// Where only a wildcard allows a name, the asker chooses labels and the
// owner of the zone what is answered: together they have a channel, and every
// byte of an answer that no connection needs makes it wider. Such answers are
// plain: types that name addresses or other names, and in them only what a
// client must know. What is left is inherent: the names that are asked, the
// names and numbers that are answered.

// plainType says whether a question of type t is forwarded where only a
// wildcard allows the name.
func plainType(t uint16) bool {
	switch t {
	case dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeHTTPS, dns.TypeSVCB,
		dns.TypeMX, dns.TypeSRV, dns.TypePTR:
		return true
	}
	return false
}

// plainParameter says whether a service parameter stays (RFC 9460, section
// 14.3.2). The others are for clients that know them, or for nobody.
func plainParameter(k dns.SVCBKey) bool {
	switch k {
	case dns.SVCB_MANDATORY, dns.SVCB_ALPN, dns.SVCB_NO_DEFAULT_ALPN, dns.SVCB_PORT:
		return true
	}
	return false
}

// plainProtocols are the protocol ids that stay in an alpn parameter: those of
// HTTP, DNS, mail, chat and messages in IANA's registry of ALPN ids.
var plainProtocols = []string{
	"http/1.0", "http/1.1", "h2", "h3", "dot", "doq", "imap", "pop3", "managesieve",
	"smtp", "xmpp-client", "xmpp-server", "irc", "mqtt", "nntp", "ftp", "stun.turn", "postgresql",
}

// plainService takes out of a service record what is not plain. False: the
// record says that a client must understand what was taken out, and is of no
// use.
func plainService(s *dns.SVCB) (changed, ok bool) {
	before := len(s.Value)
	s.Value = slices.DeleteFunc(s.Value, func(kv dns.SVCBKeyValue) bool {
		a, isALPN := kv.(*dns.SVCBAlpn)
		if !isALPN {
			return !plainParameter(kv.Key()) && !hidden(kv.Key())
		}
		protocols := len(a.Alpn)
		a.Alpn = slices.DeleteFunc(a.Alpn, func(id string) bool { return !slices.Contains(plainProtocols, id) })
		slices.Sort(a.Alpn) // an order of no meaning (RFC 9460, section 7.1.1)
		a.Alpn = slices.Compact(a.Alpn)
		changed = changed || len(a.Alpn) != protocols
		return len(a.Alpn) == 0
	})
	changed = changed || len(s.Value) != before
	for _, kv := range s.Value {
		m, isMandatory := kv.(*dns.SVCBMandatory)
		if !isMandatory {
			continue
		}
		for _, k := range m.Code {
			there := slices.ContainsFunc(s.Value, func(kv dns.SVCBKeyValue) bool { return kv.Key() == k })
			if !there && !hidden(k) {
				return true, false
			}
		}
	}
	return changed, true
}

// plainRecord writes names in the one spelling that they have (RFC 4034,
// section 6.2), and takes out of a zone's SOA all but how long the negative
// answer counts (RFC 2308, section 5).
func plainRecord(rr dns.RR) {
	switch v := rr.(type) {
	case *dns.CNAME:
		v.Target = canonical(v.Target)
	case *dns.DNAME:
		v.Target = canonical(v.Target)
	case *dns.MX:
		v.Mx = canonical(v.Mx)
	case *dns.SRV:
		v.Target = canonical(v.Target)
	case *dns.PTR:
		v.Ptr = canonical(v.Ptr)
	case *dns.HTTPS:
		v.Target = canonical(v.Target)
	case *dns.SVCB:
		v.Target = canonical(v.Target)
	case *dns.SOA:
		v.Ns, v.Mbox, v.Serial, v.Refresh, v.Retry, v.Expire = ".", ".", 1, 0, 0, 0
	}
}
