// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"net/netip"

	"github.com/egressd/egressd/policy"
)

// Drop takes out what a policy allows already.
func (l *Learner) Drop(s *policy.Snapshot) {
	for k, r := range l.rows {
		if r.allowedBy(policyOf(s, k.workload)) {
			delete(l.rows, k)
			l.each[k.workload]--
		}
	}
}

// policyOf is the policy of a workload by its name.
func policyOf(s *policy.Snapshot, workload string) *policy.Policy {
	for _, w := range s.Workloads() {
		if w.Key() == workload {
			return s.Policy(w.Policy)
		}
	}
	return s.Policy(policy.DefaultPolicy)
}

// allowedBy says whether a policy allows all that was seen of a destination: its name is
// answered, and what is sent to each of its addresses passes.
func (r *row) allowedBy(p *policy.Policy) bool {
	if p == nil || r.host != "" && p.Lookup(r.host) == nil {
		return false
	}
	var to []netip.Addr
	for _, a := range []netip.Addr{r.addr, r.v4, r.v6} {
		if a.IsValid() {
			to = append(to, a)
		}
	}
	if len(to) == 0 {
		to = []netip.Addr{{}} // the address is left out of the question
	}
	for _, a := range to {
		f := policy.Flow{Transport: policy.TCP, Dst: netip.AddrPortFrom(a, r.port)}
		if r.udp {
			f.Transport = policy.UDP
		}
		if r.host != "" {
			f.Names = []string{r.host}
		}
		if !r.passes(p, f) {
			return false
		}
	}
	return true
}

// passes says whether a flow passes, whatever of what was read of such is sent.
func (r *row) passes(p *policy.Policy, f policy.Flow) bool {
	switch p.Decide(f).Verdict {
	case policy.Deny:
		return false
	case policy.Direct:
		return true
	case policy.Inspect: // the name in the hello is what passes
		if r.opaque || r.http {
			return false
		}
		f.Host, f.HostFrom = r.host, policy.EvidenceSNI
		return p.Decide(f).Verdict != policy.Deny
	}
	c := p.Candidates(f)
	if r.opaque && c.Opaque == nil {
		return false
	}
	if r.tls {
		if d, _ := p.DecideTLS(f, r.host); d.Verdict == policy.Deny {
			return false
		}
	}
	if r.http && c.Opaque == nil {
		f.Host, f.HostFrom = r.host, policy.EvidenceHTTP
		return p.Decide(f).Verdict != policy.Deny
	}
	return true
}
