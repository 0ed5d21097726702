// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// headerSize is the length of a DNS header (RFC 1035, section 4.1.1).
const headerSize = 12

// errDrop: a message that gets no reply at all.
var errDrop = errors.New("not a query")

// parse reads a query. On an error it returns the reply to send, or nil with
// errDrop. The header is judged before anything behind it is read, as
// miekg/dns's MsgAcceptFunc does.
func parse(raw []byte) (req, refusal *dns.Msg, err error) {
	if len(raw) < headerSize || raw[2]&0x80 != 0 {
		// A response is never answered: two proxies would play ping-pong.
		return nil, nil, errDrop
	}
	opcode := int(raw[2]>>3) & 0xf
	refuse := func(rcode int) *dns.Msg {
		m := new(dns.Msg)
		m.Id, m.Response, m.Opcode, m.Rcode = binary.BigEndian.Uint16(raw), true, opcode, rcode
		return m
	}
	if opcode != dns.OpcodeQuery {
		return nil, refuse(dns.RcodeNotImplemented), errors.New("opcode is not QUERY")
	}
	count := func(i int) uint16 { return binary.BigEndian.Uint16(raw[4+2*i:]) }
	// One question, no records but OPT and a signature.
	if count(0) != 1 || count(1) != 0 || count(2) != 0 || count(3) > 2 {
		return nil, refuse(dns.RcodeFormatError), errors.New("a query has other section counts")
	}
	req = new(dns.Msg)
	if err := req.Unpack(raw); err != nil || len(req.Question) != 1 {
		return nil, refuse(dns.RcodeFormatError), errors.New("query cannot be parsed")
	}
	return req, nil, nil
}

// action is what becomes of a query.
type action uint8

const (
	// refuse: denied, never forwarded. The zero value.
	refuse action = iota
	// forward: ask a trusted upstream.
	forward
	// own: answer with the host's Answers.
	own
	// loopback: localhost, answered as RFC 6761 section 6.3 says.
	loopback
	// absent: NXDOMAIN, without asking anybody.
	absent
	// minimal: the HINFO answer to ANY (RFC 8482).
	minimal
	// unsupported: NOTIMP.
	unsupported
	// cluster: ask the cluster's DNS.
	cluster
)

// decision is the answer for one question.
type decision struct {
	action action
	name   string // normalized; "" when the question has no name that can be
	host   *policy.Host
	// unknown: no rule names the name, and such names pass (ALLOW_ANY). The
	// answer opens nothing.
	unknown bool
	// cluster: it is a name of the cluster's, which no rule names.
	cluster bool
	reason  policy.Reason
	rule    *policy.Ref // on a denial, the nearest; may be nil
	detail  string
}

// unnamed says that no rule names what was asked for.
func (d *decision) unnamed() bool {
	return d.action == refuse && d.host == nil && d.name != "" && d.reason == policy.ReasonName && !d.cluster
}

// canary is the name that Firefox asks for before it turns on DNS over HTTPS
// by itself; a negative answer keeps it off
// (support.mozilla.org/kb/canary-domain-use-application-dnsnet).
const canary = "use-application-dns.net"

// decide says what becomes of q under p; search are the suffixes that stub
// resolvers append, normalized. It is pure.
func decide(q dns.Question, p *policy.Policy, search []string) decision {
	name, err := hostname.Normalize(q.Name)
	switch {
	case q.Qclass != dns.ClassINET:
		return decision{name: name, reason: policy.ReasonName, detail: "class " + dns.Class(q.Qclass).String()}
	case err != nil:
		return decision{reason: policy.ReasonName, detail: err.Error()}
	case q.Qtype != dns.TypeANY && (q.Qtype == dns.TypeNone || q.Qtype == dns.TypeOPT || q.Qtype >= 128 && q.Qtype < 256):
		// Zone transfers and the other meta types (RFC 6895, section 3.1).
		return decision{action: unsupported, name: name, reason: policy.ReasonMalformed, detail: "meta query type"}
	case name == "localhost" || strings.HasSuffix(name, ".localhost"):
		return decision{action: loopback, name: name, reason: policy.ReasonAllowed}
	case name == canary:
		return decision{action: absent, name: name, reason: policy.ReasonAllowed}
	}
	may := query(p, name)
	service := ""
	if may.Verdict == policy.Deny && may.Reason == policy.ReasonName {
		if host, ok := serviceOf(name); ok {
			may, service = query(p, host), host
		}
	}
	if may.Verdict == policy.Deny && may.Reason != policy.ReasonName {
		return decision{name: name, reason: may.Reason, rule: may.Rule, detail: typeName(q.Qtype)}
	}
	host := may.Host
	if host == nil {
		if d, ok := decideCluster(q, name, p); ok {
			return d
		}
		// Reverse names end here, too, unless the policy allows them by name:
		// who owns the address's zone would see every query, which makes
		// them a channel out like any other name.
		if searchStep(name, p, search) {
			return decision{action: absent, name: name, reason: policy.ReasonAllowed}
		}
		switch {
		case may.Verdict == policy.Deny:
			return decision{name: name, reason: policy.ReasonName, detail: typeName(q.Qtype)}
		case q.Qtype == dns.TypeANY:
			return decision{action: minimal, name: name, unknown: true, reason: policy.ReasonAllowed}
		}
		return decision{action: forward, name: name, unknown: true, reason: policy.ReasonAllowed}
	}
	d := decision{name: name, host: host, reason: policy.ReasonAllowed}
	switch {
	case service != "" && !host.Own && serviceType(q.Qtype):
		d.action = forward
	case service != "" && !host.Own:
		d.reason, d.detail = policy.ReasonQueryType, typeName(q.Qtype)+" of a service name"
	case host.Own:
		d.action = own
	case q.Qtype == dns.TypeANY:
		d.action = minimal
	case typeAllowed(q.Qtype, !host.Pattern.IsWildcard()):
		d.action = forward
	default:
		d.reason, d.detail = policy.ReasonQueryType, typeName(q.Qtype)
	}
	return d
}

// query asks the policy about a name; without one nothing is allowed.
func query(p *policy.Policy, name string) policy.Decision {
	if p == nil {
		return policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonName}
	}
	return p.DecideQuery(name)
}

// searchStep says whether name is an allowed name with a search suffix behind
// it. Stub resolvers try those first when the name has few dots (ndots:5 in
// Kubernetes), and only NXDOMAIN makes them go on to the name itself.
func searchStep(name string, p *policy.Policy, search []string) bool {
	for _, suffix := range search {
		head, ok := strings.CutSuffix(name, "."+suffix)
		if ok && (lookup(p, head) != nil || p != nil && p.ClusterName(head) == policy.OfCluster) {
			return true
		}
	}
	return false
}

// typeAllowed says whether a question of type t is forwarded. Types that no
// ordinary program asks for are left out, because their answers are good for
// little but tunnelling; where only a wildcard allows the name all are but
// those of plainType.
func typeAllowed(t uint16, exact bool) bool {
	if !exact {
		return plainType(t)
	}
	switch t {
	case dns.TypeNS, dns.TypeSOA, dns.TypeCAA, dns.TypeDNAME,
		dns.TypeDS, dns.TypeDNSKEY, dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM,
		dns.TypeTXT, dns.TypeNAPTR, dns.TypeTLSA, dns.TypeSSHFP, dns.TypeURI, dns.TypeLOC, dns.TypeHINFO:
		return true
	}
	return plainType(t)
}

func typeName(t uint16) string { return "type " + dns.Type(t).String() }

// lookup is the host of a policy that matches name, nil without a policy.
func lookup(p *policy.Policy, name string) *policy.Host {
	if p == nil {
		return nil
	}
	return p.Lookup(name)
}
