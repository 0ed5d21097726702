// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/policy"
)

// answerTo is an empty reply to req. The question is req's own, so that its
// letters keep their case (draft-vixie-dnsext-dns0x20).
func answerTo(req *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg).SetRcode(req, rcode)
	m.RecursionAvailable = true
	m.Compress = true
	return m
}

// clientRcode is what a client sees of an upstream's rcode. REFUSED speaks
// about us, so it is passed on as a failure; so are the extended codes, which
// speak about our query and not the client's.
func clientRcode(rcode int) int {
	switch rcode {
	case dns.RcodeSuccess, dns.RcodeNameError, dns.RcodeServerFailure:
		return rcode
	}
	return dns.RcodeServerFailure
}

// extend adds an extended error (RFC 8914) for clients that speak EDNS.
func extend(m, req *dns.Msg, code uint16, text string) {
	if opt := options(m, req); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// options is m's OPT record, added when req has one; nil when it has none
// (RFC 6891, section 6.1.1).
func options(m, req *dns.Msg) *dns.OPT {
	from := req.IsEdns0()
	if from == nil {
		return nil
	}
	if opt := m.IsEdns0(); opt != nil {
		return opt
	}
	m.SetEdns0(upstreamSize, from.Do())
	return m.IsEdns0()
}

// pack fits m into what the client can take and packs it.
func (s *Server) pack(req, m *dns.Msg, t policy.Transport) []byte {
	size := maxMessage
	opt := options(m, req)
	if t == policy.UDP {
		size = dns.MinMsgSize
		if opt != nil {
			size = min(max(size, int(req.IsEdns0().UDPSize())), maxReply)
		}
	}
	m.Truncate(size)
	if m.Truncated {
		s.stats.add(cTruncated)
	}
	out, err := m.Pack()
	if err == nil && len(out) <= size {
		return out
	}
	s.log.Error("a DNS reply could not be encoded; the client gets SERVFAIL", "error", err, "bytes", len(out))
	out, err = answerTo(req, dns.RcodeServerFailure).Pack()
	if err != nil {
		return nil
	}
	return out
}

// header is the header of one of egressd's own records.
func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ownTTL}
}

// addrList names up to four addresses.
func addrList(addrs []netip.Addr) string {
	var b strings.Builder
	for i, a := range addrs {
		if i == 4 {
			b.WriteString(" ...")
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(a.String())
	}
	return b.String()
}
