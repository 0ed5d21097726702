// SPDX-License-Identifier: Apache-2.0

// Package egress is the outgoing side of the forwarding core: it decides
// redirected connections by the workload's policy and dials upstreams at
// egressd's own answers, never at an address that only the workload claims.
package egress

import (
	"context"
	"net/netip"
	"slices"

	"github.com/egressd/egressd/forward"
	"github.com/egressd/egressd/internal/dial"
	"github.com/egressd/egressd/internal/ipguard"
	"github.com/egressd/egressd/policy"
)

// Policies gives the newest compiled policy of an id, nil when there is none.
type Policies interface {
	Policy(policy.PolicyID) *policy.Policy
}

// Names are the learned addresses.
type Names interface {
	// NamesOf lists the names that an address was learned for, in a policy.
	NamesOf(policy.PolicyID, netip.Addr) []string
	// AddrsOf lists the addresses that were learned for a name.
	AddrsOf(policy.PolicyID, string) []netip.Addr
}

// Resolver asks the trusted servers, refuses what no answer may name, and
// learns the rest. match is the host whose address rules apply.
type Resolver interface {
	ResolveFor(ctx context.Context, id policy.PolicyID, name string, match *policy.Host) ([]netip.Addr, error)
}

// Options are what an Egress works with.
type Options struct {
	Policies Policies
	Names    Names
	Resolver Resolver
	Guard    ipguard.Guard
	// Bound gives the policy and the mode that a workload has now; nil, or
	// false for a workload that is none any more: those at accept count.
	Bound func(workload uint32) (policy.PolicyID, policy.Mode, bool)
	// Socket says whether a unix socket may be dialled, by its path with all
	// links resolved; nil: none may.
	Socket func(path string) bool
	// Own says where egressd itself listens: nothing is dialled there.
	Own dial.Own
}

func (o *Options) allows(socket string) bool { return o.Socket != nil && o.Socket(socket) }

// Egress implements forward.Decider and forward.Dialer.
type Egress struct{ o Options }

var (
	_ forward.Decider = (*Egress)(nil)
	_ forward.Dialer  = (*Egress)(nil)
)

// New makes an Egress.
func New(o Options) *Egress { return &Egress{o: o} }

// bound is the policy and the mode of a connection's workload.
func (e *Egress) bound(c *forward.Conn) (policy.PolicyID, policy.Mode) {
	if e.o.Bound != nil {
		if id, mode, ok := e.o.Bound(c.WorkloadID); ok {
			return id, mode
		}
	}
	return c.Policy, c.Mode
}

// policy is what counts for a connection now; nil: there is none.
func (e *Egress) policy(c *forward.Conn) (policy.PolicyID, *policy.Policy) {
	id, _ := e.bound(c)
	return id, e.o.Policies.Policy(id)
}

// flow is a connection as a policy sees it.
func (e *Egress) flow(c *forward.Conn, id policy.PolicyID) policy.Flow {
	return policy.Flow{
		Transport: policy.TCP,
		Dst:       c.Dst,
		Names:     e.o.Names.NamesOf(id, c.Dst.Addr()),
		Draw:      c.Draw,
		Src:       source(c.Src.Addr()),
	}
}

// source is the address of a workload, invalid when it is not known: a
// connection that was redirected within the host's namespace comes from
// loopback, whatever address it would have had.
func source(a netip.Addr) netip.Addr {
	if a.Unmap().IsLoopback() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// reachable denies what passes because no rule names it (ALLOW_ANY) when it
// leads to an address that is not for workloads: egressd dials from another
// place than they would.
func (e *Egress) reachable(c *forward.Conn, d policy.Decision) policy.Decision {
	if d.Verdict == policy.Deny || d.Port != nil {
		return d
	}
	if ok, _ := e.o.Guard.Check(c.Dst.Addr().Unmap(), ipguard.Options{Exact: true, AllowPrivate: true}); !ok {
		return policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonAddress, Rule: d.Rule}
	}
	return d
}

// noPolicy is the decision for a workload whose policy is gone, or that is not known yet.
func noPolicy(id policy.PolicyID) policy.Decision {
	d := policy.Decision{Verdict: policy.Deny, Reason: policy.ReasonNoWorkload}
	if id == policy.UnknownWorkload {
		d.Reason = policy.ReasonUnknownWorkload
	}
	return d
}

// audited turns a denial into a would-be denial for a workload in audit mode:
// the connection then goes where the workload dialled.
func (e *Egress) audited(c *forward.Conn, d policy.Decision) (policy.Decision, bool) {
	if d.Verdict != policy.Deny {
		return d, false
	}
	if _, mode := e.bound(c); mode != policy.Audit {
		return d, false
	}
	d.Verdict = policy.Proxy
	d.WouldDeny = true
	return d, true
}

// dialled is the upstream that is exactly what the workload dialled.
func dialled(c *forward.Conn) *policy.Upstream {
	return &policy.Upstream{
		Host:      c.Dst.Addr().String(),
		Port:      c.Dst.Port(),
		Endpoints: []policy.UpstreamEndpoint{{Addr: c.Dst, Weight: 1}},
	}
}

// preferred puts first among addrs the address that the workload dialled, and
// behind it those of its family: the workload chose among our answers, and
// its choice is as good as any.
func preferred(addrs []netip.Addr, dst netip.Addr) []netip.Addr {
	out := slices.Clone(addrs)
	slices.SortStableFunc(out, func(a, b netip.Addr) int { return rank(a, dst) - rank(b, dst) })
	return out
}

func rank(a, dst netip.Addr) int {
	switch {
	case a == dst:
		return 0
	case a.Is4() == dst.Is4():
		return 1
	}
	return 2
}
