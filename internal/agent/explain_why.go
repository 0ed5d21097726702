// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/egressd/egressd/policy"
)

// policyOf returns the policy of a workload, which is called "name" or
// "namespace/name"; "" stands for every process that nobody described.
func policyOf(s *policy.Snapshot, workload string) (*policy.Policy, error) {
	if workload == "" {
		if p := s.Policy(policy.DefaultPolicy); p != nil {
			return p, nil
		}
		return nil, fmt.Errorf("the snapshot has no policy")
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
		return nil, fmt.Errorf("no workload is called %s", workload)
	case 1:
		return s.Policy(found[0].Policy), nil
	}
	var names []string
	for _, w := range found {
		names = append(names, w.Key())
	}
	return nil, fmt.Errorf("several workloads are called %s: %s", workload, strings.Join(names, ", "))
}

// flow is the target as the policy is asked about it, with the request or the
// name that it would carry.
func (x *explainer) flow(method string) (policy.Flow, *policy.Request) {
	f := policy.Flow{Transport: x.t.transport, Dst: netip.AddrPortFrom(x.t.addr, x.t.port)}
	if x.t.addr.IsValid() {
		if x.learned != nil {
			f.Names = x.learned.NamesOf(x.p.ID(), x.t.addr)
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
	case x.t.url != nil && x.t.url.Scheme == "https", x.t.url == nil && pr.IsTLS():
		f.Host, f.HostFrom = x.t.host, policy.EvidenceSNI
	case x.t.url != nil && x.t.url.Scheme == "http", pr.IsHTTP():
		return f, x.request(method)
	}
	return f, nil
}

// request is the HTTP request that the target stands for.
func (x *explainer) request(method string) *policy.Request {
	r := &policy.Request{
		Method: method, Scheme: "http", Authority: x.t.host, Host: x.t.host, Path: "/",
		Header: http.Header{}, Port: x.t.port,
	}
	if u := x.t.url; u != nil {
		r.Scheme, r.Authority, r.Query = u.Scheme, u.Host, u.Query()
		if r.Path = u.EscapedPath(); r.Path == "" {
			r.Path = "/"
		}
	}
	return r
}

// why adds what the policy itself says: the class of the verdict, and what
// else was considered.
func (x *explainer) why(method string) {
	if x.t.addr.IsLoopback() || x.t.addr.IsUnspecified() {
		return // not decided
	}
	why := x.p.Why(x.flow(method))
	x.Class, x.Considered, x.Nearest = why.Class, why.Considered, why.Nearest
}

// core adds what the forwarding core says of a flow that the kernel leaves to
// it; it is false when that is a denial.
func (x *explainer) core(d policy.Decision) bool {
	if d.Verdict != policy.Deny {
		return true
	}
	x.take(d)
	x.step("proxy: refused (%s)", d.Reason)
	x.nearest(d.Rule)
	return false
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
