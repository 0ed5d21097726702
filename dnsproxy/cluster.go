// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// Names of a Kubernetes cluster (Services, Pods, addresses inside of it in
// reverse) are asked at the cluster's own DNS. A workload may choose which
// server inside of the cluster that is, since the answer opens nothing: what is
// inside is open, or not, by its address. Where an answer leads out of the
// cluster (a Service of type ExternalName), the name outside is another
// question, decided and asked as any other: otherwise whoever runs a server in
// a pod would choose the addresses of allowed names.

// decideCluster says what becomes of a name that no rule names; false: it is no
// name of the cluster's.
func decideCluster(q dns.Question, name string, p *policy.Policy) (decision, bool) {
	if p == nil {
		return decision{}, false
	}
	_, reverse := hostname.Reverse(name)
	switch p.ClusterName(name) {
	case policy.NotInCluster:
		return decision{action: absent, name: name, reason: policy.ReasonAllowed}, true
	case policy.NotImported:
		return decision{name: name, cluster: true, reason: policy.ReasonName, detail: typeName(q.Qtype) + ", which the Sidecar does not import"}, true
	case policy.OfCluster:
	default:
		return decision{}, false
	}
	d := decision{action: cluster, name: name, cluster: true, reason: policy.ReasonAllowed}
	switch {
	case q.Qtype == dns.TypeANY:
		d.action = minimal
	case reverse && q.Qtype != dns.TypePTR, !typeAllowed(q.Qtype, true):
		d.action, d.reason, d.detail = refuse, policy.ReasonQueryType, typeName(q.Qtype)
	}
	return d, true
}

// clusterServers lists the servers to ask for a name of the cluster's: the one
// that the workload addressed, when that is inside of the cluster and open to
// it, or at a link-local address of the node (NodeLocal DNS); else those that
// are known to be the cluster's. known says that all of them are.
func (s *Server) clusterServers(c Client, p *policy.Policy) (list []netip.AddrPort, known bool) {
	list = knownServers(p)
	addressed := netip.AddrPortFrom(c.Server.Addr().Unmap(), c.Server.Port())
	if slices.Contains(list, addressed) {
		return trusted(list, addressed), true
	}
	if slices.Contains(s.servers(), addressed) {
		return []netip.AddrPort{addressed}, true
	}
	_, open := p.Inside(policy.UDP, addressed)
	if open || addressed.Addr().IsLinkLocalUnicast() && s.guard.Owns(addressed.Addr()) {
		return []netip.AddrPort{addressed}, false
	}
	return list, true
}

// askCluster answers a query for a name of the cluster's.
func (s *Server) askCluster(ctx context.Context, c Client, t policy.Transport, req *dns.Msg, d decision) *dns.Msg {
	p := s.policies.Policy(c.Policy)
	if p == nil {
		return answerTo(req, dns.RcodeServerFailure) // it went away meanwhile
	}
	servers, known := s.clusterServers(c, p)
	if len(servers) == 0 {
		if s.warned.allow(s.now()) {
			s.log.Warn("no DNS server of the cluster is known, so names of the cluster do not exist for workloads that ask another one; name it with --cluster-dns",
				"name", d.name, "asked", c.Server)
		}
		return answerTo(req, dns.RcodeNameError)
	}
	s.stats.add(cForwarded)
	q := req.Question[0]
	rep, err := s.askInside(ctx, c, newQuery(q, req), servers, known)
	if err != nil {
		return s.unanswered(c, t, req, d, err)
	}
	if out := leaving(rep, q, p); out != "" {
		return s.outside(ctx, c, t, req, rep, out)
	}
	f := filter(rep, q, s.rules(c, decision{}, req, nil))
	for range f.stripped {
		s.stats.add(cStripped)
	}
	m := answerTo(req, clientRcode(rep.Rcode))
	m.Answer, m.Ns = f.answer, f.ns
	return m
}

// askInside asks servers of the cluster. One that a workload chose is asked by
// itself: how it fares says nothing of servers that others ask.
func (s *Server) askInside(ctx context.Context, c Client, q *dns.Msg, servers []netip.AddrPort, known bool) (*dns.Msg, error) {
	if known {
		return s.up.exchange(ctx, s.account(c), q, servers)
	}
	set := s.upstream.set.Load()
	for attempt := 1; ; attempt++ {
		one, stop := context.WithTimeout(ctx, set.Timeout)
		rep, err := s.upstream.ask(one, q, servers[0])
		stop()
		if err == nil || attempt >= set.Attempts || ctx.Err() != nil {
			return rep, err
		}
	}
}

// leaving is the first name on the way of aliases of an answer that is none of
// the cluster's, normalized; "" when there is none.
func leaving(rep *dns.Msg, q dns.Question, p *policy.Policy) string {
	c := follow(rep.Answer, q)
	for _, owner := range c.owners[1:] {
		name, err := hostname.Normalize(owner)
		if err != nil || p.ClusterName(name) == policy.NotOfCluster {
			return strings.TrimSuffix(owner, ".")
		}
	}
	return ""
}

// outside answers a query whose answer leads out of the cluster: with the
// aliases up to there, and what the name outside is answered with by itself.
func (s *Server) outside(ctx context.Context, c Client, t policy.Transport, req, rep *dns.Msg, name string) *dns.Msg {
	q := req.Question[0]
	further := req.Copy()
	further.Question[0].Name = dns.Fqdn(name)
	m := s.handle(ctx, c, t, further)
	links := follow(rep.Answer, q)
	var head []dns.RR
	for i, rr := range rep.Answer {
		if !links.links[i] || slices.Index(links.owners, canonical(rr.Header().Name)) >= slices.Index(links.owners, dns.Fqdn(name)) {
			continue
		}
		rr.Header().Ttl = min(rr.Header().Ttl, ownTTL)
		head = append(head, rr)
	}
	m.Question = req.Question
	m.Answer = append(head, m.Answer...)
	m.AuthenticatedData, m.Authoritative = false, false
	return m
}

// clusterOf lists the servers that are known to be the cluster's for a name of
// its domain that a rule names: others do not know it. What they answer is
// learned, so that no workload chooses among servers here.
func (s *Server) clusterOf(c Client, d decision) []netip.AddrPort {
	p := s.policies.Policy(c.Policy)
	if d.host == nil || !ofCluster(p, d.name) {
		return nil
	}
	return trusted(knownServers(p), c.Server)
}

func ofCluster(p *policy.Policy, name string) bool {
	return p != nil && p.ClusterName(name) != policy.NotOfCluster
}

// knownServers are those that are known to be the cluster's.
func knownServers(p *policy.Policy) (list []netip.AddrPort) {
	for _, a := range p.ClusterServers() {
		list = append(list, netip.AddrPortFrom(a, 53))
	}
	return list
}

// serversFor lists the servers that egressd itself asks for a name. What the
// cluster is is the same in all policies.
func (s *Server) serversFor(name string) []netip.AddrPort {
	if p := s.policies.Policy(policy.DefaultPolicy); ofCluster(p, name) {
		if known := knownServers(p); len(known) > 0 {
			return known
		}
	}
	return s.servers()
}
