// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// policyOf returns the policy of a workload, which is called "name" or
// "namespace/name"; "" stands for every process that nobody described, which
// is no workload.
func policyOf(s *policy.Snapshot, workload string) (*policy.Policy, *policy.Workload, error) {
	if workload == "" {
		if p := s.Policy(policy.DefaultPolicy); p != nil {
			return p, nil, nil
		}
		return nil, nil, fmt.Errorf("the snapshot has no policy")
	}
	namespace, name, qualified := strings.Cut(workload, "/")
	if !qualified {
		namespace, name = "", workload
	}
	var found []policy.BoundWorkload
	for _, w := range s.Workloads() {
		if w.Name == name && (!qualified || w.Namespace == namespace) {
			found = append(found, w)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil, fmt.Errorf("no workload is called %s%s", workload, known(s))
	case 1:
		return s.Policy(found[0].Policy), found[0].Workload, nil
	}
	var names []string
	for _, w := range found {
		names = append(names, w.Key())
	}
	return nil, nil, fmt.Errorf("several workloads are called %s: %s", workload, strings.Join(names, ", "))
}

// known lists the workloads that there are, if they are few.
func known(s *policy.Snapshot) string {
	var names []string
	for _, w := range s.Workloads() {
		names = append(names, w.Key())
	}
	switch {
	case len(names) == 0:
		return "; the policy describes none"
	case len(names) > 10:
		return ""
	}
	return "; there is " + strings.Join(names, ", ")
}

// flow is the target as the policy is asked about it, with the request or the
// name that it would carry.
func (x *explainer) flow() (policy.Flow, *policy.Request) {
	f := policy.Flow{Transport: x.t.transport, Dst: netip.AddrPortFrom(x.t.addr, x.t.port)}
	if x.t.addr.IsValid() {
		if x.learned != nil {
			f.Names = x.learned.NamesOf(x.p.ID(), x.t.addr)
		}
		if x.t.speaks.IsHTTP() && x.p.Candidates(f).HTTP {
			return f, x.request()
		}
		return f, nil
	}
	f.Names = []string{x.t.host}
	pr := policy.ProtocolUnset
	if _, hp := x.p.LookupPort(x.t.host, x.t.transport, x.t.port); hp != nil {
		pr = hp.Protocol
	}
	switch {
	case x.t.transport != policy.TCP:
	case x.t.speaks.IsTLS(), x.t.speaks == policy.ProtocolUnset && pr.IsTLS():
		f.Host, f.HostFrom = x.t.host, policy.EvidenceSNI
	case x.t.speaks.IsHTTP(), x.t.speaks == policy.ProtocolUnset && pr.IsHTTP():
		return f, x.request()
	}
	return f, nil
}

// request is the HTTP request that the target stands for.
func (x *explainer) request() *policy.Request {
	r := &policy.Request{
		Method: x.method, Scheme: "http", Authority: x.t.host, Host: x.t.host, Path: "/",
		Header: field.FromMap(x.header), Port: x.t.port,
	}
	if x.t.host == "" {
		r.Host = x.t.addr.String()
		r.Authority = r.Host
	}
	if u := x.t.url; u != nil {
		r.Authority, r.Query = u.Host, u.Query()
		if r.Path = u.EscapedPath(); r.Path == "" {
			r.Path = "/"
		}
	}
	if host := x.header.Get("Host"); host != "" {
		r.Header.Del("Host")
		r.Authority, r.Host = host, hostOf(host)
	}
	return r
}

// why adds what the policy itself says: the class of the verdict, and what
// else was considered.
func (x *explainer) why() {
	f, r := x.flow()
	f.Draw = x.draw
	why := x.p.Why(f, r)
	x.Considered, x.Nearest = why.Considered, why.Nearest
	switch {
	case x.Allowed:
		x.Class, x.Nearest = why.Class, nil
	case why.Allowed: // what the client says first is the matter
		for i := range x.Considered {
			x.Considered[i].Won = false
		}
	}
}

// suggest says what would allow the target.
func (x *explainer) suggest() {
	w := DeniedTarget{Name: x.t.host, Addr: x.t.addr, Port: x.t.port, Transport: x.t.transport, Speaks: x.t.speaks, Namespace: x.namespace}
	if h := x.host; x.Reason == policy.ReasonPort && h != nil && h.Rule.Kind == "ServiceEntry" && !h.Pattern.IsWildcard() {
		x.Suggestion = fmt.Sprintf("# add to spec.ports of %s\n%s", h.Rule, portItem(suggestedPort(w)))
		return
	}
	x.Suggestion = Suggest(w)
}

// endpoints explains where a flow goes that the kernel does not send where it
// was dialled.
func (x *explainer) endpoints(to policy.Endpoints) {
	if !to.IsZero() {
		x.step("kernel: connect() goes to an endpoint, drawn by weight: %s", strings.ReplaceAll(to.String(), " ", ", "))
	}
}

// reach explains where flows to the addresses of a host go.
func (x *explainer) reach(h *policy.Host, port *policy.HostPort) {
	addrs := []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	ways := map[policy.Endpoints]bool{}
	if h.Own {
		addrs = h.Answers
	}
	for _, a := range addrs {
		to := port.Way(a).To
		if h.Own {
			to = x.p.Decide(policy.Flow{Transport: x.t.transport, Dst: netip.AddrPortFrom(a, x.t.port)}).To
		}
		if !ways[to] {
			ways[to] = true
			x.endpoints(to)
		}
	}
}

// hostOf is the host of a Host header, normalized; "" for one that is none.
func hostOf(authority string) string {
	host := authority
	if h, _, err := net.SplitHostPort(authority); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if a, err := netip.ParseAddr(host); err == nil {
		return a.String()
	}
	name, err := hostname.Normalize(host)
	if err != nil {
		return ""
	}
	return name
}
