// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

const (
	// ownTTL is the time to live of egressd's own answers, in seconds: short,
	// because a policy update changes them.
	ownTTL = 30
	// maxReply caps the EDNS payload size of clients (RFC 6891, section 6.2.5).
	maxReply = 4096
)

// reply is the packed answer to one raw query, nil for none.
func (s *Server) reply(ctx context.Context, c Client, t policy.Transport, raw []byte) (out []byte) {
	defer func() {
		// A workload chooses these bytes; a bug in their parsing must cost
		// one query and not the node's gateway.
		if r := recover(); r != nil {
			s.stats.add(cPanic)
			s.log.Error("the handler of a DNS query panicked; this query gets no answer", "panic", r, "stack", string(debug.Stack()))
			out = nil
		}
	}()
	req, refusal, err := parse(raw)
	if err != nil {
		return s.malformed(c, t, refusal, err)
	}
	return s.pack(req, s.handle(ctx, c, t, req), t)
}

func (s *Server) malformed(c Client, t policy.Transport, refusal *dns.Msg, err error) []byte {
	s.stats.add(cMalformed)
	s.report(c, t, "", decision{reason: policy.ReasonMalformed, detail: err.Error()}, false)
	if refusal == nil {
		return nil
	}
	out, err := refusal.Pack()
	if err != nil {
		return nil
	}
	return out
}

// overloaded is the answer to a query for which there was no room.
func (s *Server) overloaded(c Client, t policy.Transport, raw []byte) []byte {
	s.stats.add(cOverload)
	s.report(c, t, "", decision{reason: policy.ReasonOverload}, false)
	req, _, err := parse(raw)
	if err != nil {
		return nil
	}
	return s.pack(req, new(dns.Msg).SetRcode(req, dns.RcodeServerFailure), t)
}

// handle answers one query that could be parsed.
func (s *Server) handle(ctx context.Context, c Client, t policy.Transport, req *dns.Msg) *dns.Msg {
	q := req.Question[0]
	if opt := req.IsEdns0(); opt != nil && opt.Version() != 0 {
		return new(dns.Msg).SetRcode(req, dns.RcodeBadVers)
	}
	if c.Probe != nil {
		s.names.Size() // what handlers wait for
		c.Probe.Answered()
		return answerTo(req, dns.RcodeSuccess)
	}
	p := s.policies.Policy(c.Policy)
	d := decide(q, p, s.upstream.set.Load().Search)
	// The client's own suffixes cost reading a file, so they come last.
	if d.unnamed() && searchStep(d.name, p, suffixes(s.searchOf(c))) {
		d = decision{action: absent, name: d.name, reason: policy.ReasonAllowed}
	}
	switch d.action {
	case forward:
		return s.forward(ctx, c, t, req, d)
	case cluster:
		return s.askCluster(ctx, c, t, req, d)
	case own:
		s.stats.add(cLocal)
		s.note(c, d, d.host.Answers)
		return s.local(req, d.host.Answers)
	case loopback:
		s.stats.add(cLocal)
		return s.local(req, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()})
	case absent:
		s.stats.add(cSearch)
		return answerTo(req, dns.RcodeNameError)
	case minimal:
		s.stats.add(cLocal)
		m := answerTo(req, dns.RcodeSuccess)
		m.Answer = []dns.RR{&dns.HINFO{Hdr: header(q.Name, dns.TypeHINFO), Cpu: "RFC8482"}}
		return m
	case unsupported:
		s.stats.add(cDeniedType)
		s.report(c, t, q.Name, d, false)
		return answerTo(req, dns.RcodeNotImplemented)
	}
	if d.reason == policy.ReasonName && c.Policy == policy.UnknownWorkload {
		d.reason = policy.ReasonUnknownWorkload
	}
	return s.refuse(ctx, c, t, req, d)
}

// refuse denies a query, or in a mode that denies nothing says so and
// forwards it.
func (s *Server) refuse(ctx context.Context, c Client, t policy.Transport, req *dns.Msg, d decision) *dns.Msg {
	name := d.name
	if name == "" {
		name = req.Question[0].Name // escaped by the parser, so safe to log
	}
	if c.Mode != policy.Enforce {
		s.denied(c, t, name, d)
		if d.cluster {
			return s.askCluster(ctx, c, t, req, d)
		}
		return s.forward(ctx, c, t, req, d)
	}
	if d.reason == policy.ReasonQueryType {
		s.stats.add(cDeniedType)
	}
	s.denied(c, t, name, d)
	m := answerTo(req, s.rcode(req.Question[0], d))
	extend(m, req, dns.ExtendedErrorCodeBlocked, "egressd: "+string(d.reason))
	return m
}

// rcode is the response code of a denial. A host that is allowed exists,
// whatever is not told of it.
func (s *Server) rcode(q dns.Question, d decision) int {
	switch {
	case q.Qclass != dns.ClassINET, q.Name == ".":
		return dns.RcodeRefused // the root is there, at any rate
	case d.reason == policy.ReasonQueryType:
		return dns.RcodeSuccess
	case d.reason == policy.ReasonUnknownWorkload:
		return dns.RcodeServerFailure // it may be allowed in a moment, so nobody should keep a denial
	}
	return s.denial.rcode()
}

// forward asks upstream, filters the answer, learns its addresses and only
// then returns it.
func (s *Server) forward(ctx context.Context, c Client, t policy.Transport, req *dns.Msg, d decision) *dns.Msg {
	servers := s.route(c)
	if known := s.clusterOf(c, d); len(known) > 0 {
		servers = known
	}
	if len(servers) == 0 && len(s.servers()) > 0 {
		return s.looped(c, t, req, d)
	}
	s.stats.add(cForwarded)
	q := req.Question[0]
	leave := s.waiting.enter(q, c)
	rep, stale, err := s.lookup(ctx, c, newQuery(q, req), d, servers)
	if err != nil || stale {
		s.suspectLoop(q, c, servers)
	}
	leave()
	if err != nil {
		return s.unanswered(c, t, req, d, err)
	}
	var refused []netip.Addr
	f := filter(rep, q, s.rules(c, d, req, &refused))
	for range f.stripped {
		s.stats.add(cStripped)
	}
	if len(refused) > 0 {
		s.stats.add(cAddrRefused)
		s.denied(c, t, d.name, decision{host: d.host, reason: policy.ReasonAddress, detail: addrList(refused)})
	}
	if err := s.learn(c, t, d, f.addrs, refused); err != nil && c.Mode == policy.Enforce {
		m := answerTo(req, dns.RcodeServerFailure)
		if errors.Is(err, learned.ErrFull) {
			extend(m, req, dns.ExtendedErrorCodeOther, "egressd: "+string(policy.ReasonQuota))
		}
		return m
	}
	told := make([]netip.Addr, len(f.addrs))
	for i, a := range f.addrs {
		told[i] = a.Addr
	}
	s.note(c, d, told)
	m := answerTo(req, clientRcode(rep.Rcode))
	m.Answer, m.Ns = f.answer, f.ns
	m.AuthenticatedData = rep.AuthenticatedData && !f.modified() && !stale
	if stale {
		extend(m, req, dns.ExtendedErrorCodeStaleAnswer, "egressd: no DNS server answers")
	}
	if len(f.refused) > 0 && len(f.addrs) == 0 {
		// The name exists, and NXDOMAIN would make resolvers try others.
		extend(m, req, dns.ExtendedErrorCodeFiltered, "egressd: "+string(policy.ReasonAddress))
	}
	return m
}

// unanswered is the answer when no server had one.
func (s *Server) unanswered(c Client, t policy.Transport, req *dns.Msg, d decision, err error) *dns.Msg {
	s.log.Debug("query failed", "name", d.name, "error", err)
	m := answerTo(req, dns.RcodeServerFailure)
	if errors.Is(err, errBusy) || localFailure(err) {
		s.report(c, t, d.name, decision{host: d.host, reason: policy.ReasonOverload, detail: err.Error()}, false)
		extend(m, req, dns.ExtendedErrorCodeOther, "egressd: "+string(policy.ReasonOverload))
		return m
	}
	extend(m, req, dns.ExtendedErrorCodeNoReachableAuthority, "egressd: no DNS server answered")
	return m
}

// rules are the filter's rules for one query. Addresses that the guard
// refuses are added to refused; they stay in the answer where nothing is
// denied.
func (s *Server) rules(c Client, d decision, req *dns.Msg, refused *[]netip.Addr) rules {
	r := rules{maxTTL: uint32(s.names.Options().Cap / time.Second)}
	if opt := req.IsEdns0(); opt != nil {
		r.dnssec = opt.Do()
	}
	if d.host == nil && !d.unknown {
		return r // forwarded in audit mode; nothing is learned
	}
	r.address = func(a netip.Addr) bool {
		ok, _ := s.guard.Check(a, learned.GuardOptions(d.host))
		if !ok {
			*refused = append(*refused, a)
		}
		return ok || c.Mode != policy.Enforce
	}
	if c.Mode == policy.Enforce && d.host != nil {
		r.plain = d.host.Pattern.IsWildcard()
		p := s.policies.Policy(c.Policy)
		r.target = func(name string) bool { return allows(p, name) }
	}
	return r
}

// allows says whether p allows a name of an answer; what is no name is not.
func allows(p *policy.Policy, name string) bool {
	normal, err := hostname.Normalize(name)
	return err == nil && lookup(p, normal) != nil
}

// learn opens the addresses of an answer, all but refused.
func (s *Server) learn(c Client, t policy.Transport, d decision, addrs []learned.Record, refused []netip.Addr) error {
	if d.host == nil || len(addrs) == 0 {
		return nil
	}
	good := slices.DeleteFunc(slices.Clone(addrs), func(a learned.Record) bool { return slices.Contains(refused, a.Addr) })
	err := s.names.Learn(c.Policy, c.Workload, d.name, good)
	switch {
	case err == nil:
		s.stats.add(cLearned)
	case errors.Is(err, learned.ErrFull):
		s.stats.add(cLearnFull)
		s.denied(c, t, d.name, decision{host: d.host, reason: policy.ReasonQuota, detail: strings.TrimPrefix(err.Error(), "learn "+d.name+": ")})
	case errors.Is(err, learned.ErrName), errors.Is(err, learned.ErrAddress):
		s.stats.add(cLearnChanged) // the policy changed while the query was under way
	default:
		s.stats.add(cLearnKernel)
		s.log.Error("the addresses of a DNS answer could not be opened in the kernel; the client gets SERVFAIL and may ask again", "name", d.name, "error", err)
	}
	return err
}

// note keeps what a client in audit mode is told, which its connections would
// be denied for: they are for this name then.
func (s *Server) note(c Client, d decision, addrs []netip.Addr) {
	if c.Mode == policy.Audit && d.name != "" && len(addrs) > 0 {
		s.names.Note(c.Workload, d.name, c.Process.PID, addrs)
	}
}

// local answers for a name without asking anybody: the addresses of the asked
// family in rotating order, and nothing for other types (not NXDOMAIN: the
// name exists).
func (s *Server) local(req *dns.Msg, addrs []netip.Addr) *dns.Msg {
	m := answerTo(req, dns.RcodeSuccess)
	m.Authoritative = true
	q := req.Question[0]
	for _, a := range addrs {
		switch {
		case q.Qtype == dns.TypeA && a.Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: header(q.Name, q.Qtype), A: a.AsSlice()})
		case q.Qtype == dns.TypeAAAA && a.Is6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(q.Name, q.Qtype), AAAA: a.AsSlice()})
		}
	}
	if n := len(m.Answer); n > 1 {
		i := int(s.turn.Add(1)-1) % n
		m.Answer = slices.Concat(m.Answer[i:], m.Answer[:i])
	}
	return m
}

// denied counts and reports a denial, or in audit mode a would-be one.
func (s *Server) denied(c Client, t policy.Transport, name string, d decision) {
	switch c.Mode {
	case policy.Enforce:
		s.stats.add(cDenied)
		s.report(c, t, name, d, false)
	case policy.Audit:
		s.stats.add(cWouldDeny)
		s.report(c, t, name, d, true)
	}
}

// report records one event. The sink makes few of many.
func (s *Server) report(c Client, t policy.Transport, name string, d decision, wouldDeny bool) {
	if c.Probe != nil {
		return
	}
	e := flow.Event{
		Time: s.now(), Kind: flow.Query, Layer: flow.DNS, Workload: c.Workload, Process: c.Process,
		Transport: t, Proto: "dns", Dst: c.Server, Name: name,
		Verdict: policy.Deny, Allowed: wouldDeny, WouldDeny: wouldDeny, Reason: d.reason, Detail: d.detail,
	}
	if d.host != nil && len(d.host.Ports) > 0 {
		e.Rule = d.host.Ports[0].Rule
	}
	if d.rule != nil {
		e.Rule = d.rule
	}
	s.teller.Tell(s.sink, e)
}
