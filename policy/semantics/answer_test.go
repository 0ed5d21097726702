// SPDX-License-Identifier: Apache-2.0

package semantics

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/egressd/egressd/internal/field"
	"github.com/egressd/egressd/policy"
)

// asker puts questions to a snapshot.
type asker struct {
	s *policy.Snapshot
	// known are the names that workloads have asked for, in order.
	known []learned
	// names are those without a line of their own, in order of appearance.
	names []string
}

// answer is what is said to a question, for each address that it is about;
// the addresses are invalid when there is only one answer.
type answer struct {
	at   netip.Addr
	text string
}

// ask answers a question. A name is dialled at each of its addresses, and the
// answers are one when they are equal.
func (a *asker) ask(q *question) ([]answer, error) {
	if q.gateway != "" {
		text, err := a.gateway(q)
		return []answer{{text: text}}, err
	}
	p, err := a.policyOf(q)
	if err != nil {
		return nil, err
	}
	if q.kind == "query" {
		return []answer{{text: query(p, q.host)}}, nil
	}
	addrs, refused := a.addresses(p, q)
	if refused != "" {
		return []answer{{text: refused}}, nil
	}
	var out []answer
	for _, at := range addrs {
		text, err := a.dial(p, q, at)
		if err != nil {
			return nil, err
		}
		out = append(out, answer{at, text})
	}
	if !slices.ContainsFunc(out, func(x answer) bool { return x.text != out[0].text }) {
		out = []answer{{text: out[0].text}}
	}
	return out, nil
}

func (a *asker) policyOf(q *question) (*policy.Policy, error) {
	if q.anyone {
		return a.s.Policy(policy.DefaultPolicy), nil
	}
	for _, w := range a.s.Workloads() {
		if key(w.Identity) == key(q.who) {
			return a.s.Policy(w.Policy), nil
		}
	}
	return nil, fmt.Errorf("no workload %s", key(q.who))
}

// query is the answer to a DNS query.
func query(p *policy.Policy, name string) string {
	d := p.DecideQuery(name)
	if d.Host == nil && (d.Verdict != policy.Deny || d.Reason == policy.ReasonName) {
		switch p.ClusterName(name) {
		case policy.OfCluster:
			return "asked in the cluster"
		case policy.NotInCluster:
			return "no name of the cluster"
		}
	}
	switch h := d.Host; {
	case d.Verdict == policy.Deny:
		return denial(d)
	case h != nil && h.Own:
		return join("answered", strings.Trim(fmt.Sprint(h.Answers), "[]"), by(d.Rule, ""))
	}
	return join("forwarded", by(d.Rule, ""))
}

// addresses are those that the question's host is dialled at; or the answer
// when the name is refused, so that nothing is dialled.
func (a *asker) addresses(p *policy.Policy, q *question) ([]netip.Addr, string) {
	if q.at.IsValid() {
		return []netip.Addr{q.at}, ""
	}
	if addr, err := netip.ParseAddr(q.host); err == nil {
		return []netip.Addr{addr}, ""
	}
	d := p.DecideQuery(q.host)
	if d.Host != nil && d.Host.Own && len(d.Host.Answers) > 0 {
		return d.Host.Answers, ""
	}
	for _, l := range a.known {
		if l.name == q.host {
			return l.addrs, ""
		}
	}
	if d.Verdict == policy.Deny {
		return nil, denial(d)
	}
	n := slices.Index(a.names, q.host)
	if n < 0 {
		n, a.names = len(a.names), append(a.names, q.host)
	}
	n++
	return []netip.Addr{
		netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}),
		netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0x02, 0x03, 15: byte(n)}),
	}, ""
}

// flow is a connection to an address: the names are those that the workload
// has asked for and that its policy learns.
func (a *asker) flow(p *policy.Policy, q *question, at netip.Addr) policy.Flow {
	f := policy.Flow{Transport: policy.TCP, Dst: netip.AddrPortFrom(at, q.port), Src: q.from, Draw: q.draw}
	if q.kind == "udp" {
		f.Transport = policy.UDP
	}
	learns := func(name string) bool {
		if h := p.Lookup(name); h != nil {
			return !h.Own
		}
		// A name that is denied where unknown ones pass is still recognized.
		return len(p.Openings(name, at)) > 0
	}
	listed := false
	for _, l := range a.known {
		listed = listed || l.name == q.host
		if slices.Contains(l.addrs, at) && learns(l.name) {
			f.Names = append(f.Names, l.name)
		}
	}
	if !listed && learns(q.host) {
		f.Names = append(f.Names, q.host)
	}
	return f
}

// dial is what becomes of a connection, step by step as in the data path:
// what the kernel says when it is made, then what is read of it.
func (a *asker) dial(p *policy.Policy, q *question, at netip.Addr) (string, error) {
	f := a.flow(p, q, at)
	k := p.Decide(f)
	if err := opened(p, f, k); err != nil {
		return "", err
	}
	switch {
	case k.Verdict == policy.Deny:
		return denial(k), nil
	case k.Verdict == policy.Direct, q.kind == "udp":
		return passes(k), nil
	case q.kind == "http":
		return a.request(p, q, f, k), nil
	case q.sni != nil:
		return hello(p, f, k, *q.sni), nil
	case k.Verdict == policy.Inspect:
		return passes(k), nil
	}
	return unread(p.Candidates(f)), nil
}

// opened sees that the kernel's tables say what Decide says, where one name
// alone opens the address.
func opened(p *policy.Policy, f policy.Flow, k policy.Decision) error {
	alone := p.Decide(policy.Flow{Transport: f.Transport, Dst: f.Dst})
	if len(f.Names) != 1 || alone.Verdict != policy.Deny || alone.Reason != policy.ReasonNoRule {
		return nil
	}
	got := policy.Deny
	for _, o := range p.Openings(f.Names[0], f.Dst.Addr()) {
		if o.Port == f.Dst.Port() && o.Transport == f.Transport {
			got = o.Verdict
		}
	}
	if got != k.Verdict {
		return fmt.Errorf("the tables open %v to %v, and the decision is %v (%s)", f.Dst, got, k.Verdict, k.Reason)
	}
	return nil
}

// hello is what becomes of a connection whose ClientHello carries a name.
func hello(p *policy.Policy, f policy.Flow, k policy.Decision, sni string) string {
	if k.Verdict == policy.Inspect && sni != "" {
		f.Host, f.HostFrom = sni, policy.EvidenceSNI
		d := p.Decide(f)
		if d.Verdict == policy.Deny {
			return denial(d)
		}
		return passes(d)
	}
	d, u := p.DecideTLS(f, sni)
	if d.Verdict == policy.Deny {
		return denial(d)
	}
	return join("proxy", to(u), by(d.Rule, "")) + more(d, u)
}

// unread is what becomes of a connection whose bytes are neither TLS nor HTTP.
func unread(c policy.Candidates) string {
	read := ""
	switch {
	case c.HTTP && c.TLS:
		read = "http and tls"
	case c.HTTP:
		read = "http"
	case c.TLS:
		read = "tls"
	}
	switch {
	case c.Verdict == policy.Deny:
		return denial(c.Decision)
	case c.Opaque == nil:
		return join("proxy", by(c.Rule, "")) + more(c.Decision, nil) + ", " + read + " alone"
	case read != "":
		read = ", " + read + " by name"
	}
	return join("proxy", to(c.Opaque), by(c.Rule, "")) + more(c.Decision, c.Opaque) + read
}

// request is what becomes of an HTTP request.
func (a *asker) request(p *policy.Policy, q *question, f policy.Flow, k policy.Decision) string {
	if k.Verdict == policy.Inspect {
		return denial(policy.Decision{Reason: policy.ReasonNotTLS, Rule: k.Rule})
	}
	r := q.request()
	return routed(p.DecideHTTP(f, r), r)
}

func (q *question) request() *policy.Request {
	r := &policy.Request{Method: q.method, Scheme: "http", Authority: q.hostname, Host: q.hostname, Path: q.target.EscapedPath(),
		Query: q.target.Query(), Port: q.port}
	r.Header = field.FromMap(q.header)
	return r
}

// routed is what the rules do with a request.
func routed(d policy.HTTPDecision, r *policy.Request) string {
	switch {
	case d.Verdict == policy.Deny:
		return denial(d.Decision)
	case d.Action == nil:
		return join("proxy", to(d.Upstream), by(d.Rule, "")) + more(d.Decision, d.Upstream)
	}
	rule := d.Action.Rule
	does, upstream := "", (*policy.Upstream)(nil)
	switch {
	case rule.Redirect != nil:
		does = fmt.Sprintf("redirect %d", rule.Redirect.Code)
	case rule.DirectResponse != nil:
		does = fmt.Sprintf("respond %d", rule.DirectResponse.Status)
	default:
		does = "proxy"
		for _, h := range d.Hops() {
			does += fmt.Sprintf(" via gateway %s:%d", h.To.Gateway.Name, h.To.Gateway.Port)
		}
		all := d.Action.Destinations
		if d.To != nil {
			all = []policy.RouteDestination{*d.To}
		}
		for i, x := range all {
			if i > 0 {
				does += " or"
			}
			does += " " + destination(d.Action.Rule, &x)
			if len(all) > 1 {
				does += fmt.Sprintf(" %d/%d", x.Weight, d.Action.TotalWeight)
			}
			upstream = x.Upstream
		}
		does += rewritten(d, r)
	}
	out := join(does, by(d.Rule, rule.Name)) + more(d.Decision, upstream)
	if t := d.Timeout(); t > 0 {
		out += fmt.Sprintf(", timeout %v", t)
	}
	if x := d.RetryPolicy(); x != nil {
		out += fmt.Sprintf(", retries %d", x.Attempts)
	}
	for i := range d.Mirrors {
		out += copied(&d, &d.Mirrors[i], r)
	}
	return out
}

// copied is what becomes of a copy of a request.
func copied(d *policy.HTTPDecision, m *policy.Mirrored, r *policy.Request) string {
	switch {
	case m.Refused != "":
		return fmt.Sprintf(", no copy to %s: %s", m.To.Destination.Host, m.Refused)
	case m.Answered:
		return ", copy answered"
	case m.To.Upstream == nil:
		return ", no copy: nobody is " + m.To.Destination.Host
	}
	out := ", copy"
	if m.Way != nil {
		for _, h := range m.Way.Hops() {
			out += fmt.Sprintf(" via gateway %s:%d", h.To.Gateway.Name, h.To.Gateway.Port)
		}
	}
	out = join(out, to(m.To.Upstream))
	if seen := d.Copied(m, d.To, r); seen.Host != r.Host || seen.Path != r.Path {
		out += " as " + seen.Host + seen.Path
	}
	return out
}

// destination is where a rule leads.
func destination(rule *policy.HTTPRule, d *policy.RouteDestination) string {
	switch {
	case d.Denied:
		return "to no allowed host " + d.Destination.Host
	case d.Upstream == nil:
		status := rule.UnknownStatus
		if status == 0 {
			status = 503
		}
		return fmt.Sprintf("to nobody (%d), for %s:%d", status, d.Destination.Host, d.Destination.Port)
	}
	return to(d.Upstream)
}

// rewritten is the path and the host that a request leaves with, when they are
// not those that it came with.
func rewritten(d policy.HTTPDecision, r *policy.Request) string {
	last := d.Request(r)
	path, host := d.Action.RewritePath(last.Path), last.Host
	if w := d.Action.Rule.Rewrite; w != nil && w.Authority != "" {
		host = w.Authority
	}
	if path == r.Path && host == r.Host {
		return ""
	}
	return " as " + host + path
}

// passes is the answer for what the kernel lets pass without the proxy.
func passes(d policy.Decision) string {
	where := ""
	if !d.To.IsZero() {
		where = "to " + d.To.String()
	}
	var u *policy.Upstream
	if d.Port != nil {
		u = d.Port.Upstream
	}
	return join(d.Verdict.String(), where, by(d.Rule, "")) + more(d, u)
}

// denial is a denial with its reason. An AuthorizationPolicy makes it; any
// other object is only the nearest.
func denial(d policy.Decision) string {
	rule := ""
	switch {
	case d.Rule == nil:
	case d.Reason == policy.ReasonAuthorization, d.Reason == policy.ReasonNoAllow:
		rule = by(d.Rule, "")
	default:
		rule = "near " + object(d.Rule)
	}
	return join("deny", string(d.Reason), rule)
}

// to is an upstream: its host and port, and where that is when it is not what
// the name resolves to.
func to(u *policy.Upstream) string {
	if u == nil {
		return ""
	}
	s := "to " + net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port)))
	var places []string
	for _, e := range u.Endpoints {
		switch {
		case e.Unix != "":
			places = append(places, "unix:"+e.Unix)
		case e.Addr.Addr().String() != u.Host || e.Addr.Port() != u.Port:
			places = append(places, e.Addr.String())
		}
	}
	for _, n := range u.Names {
		if n.Name != u.Host || n.Port != u.Port {
			places = append(places, fmt.Sprintf("%s:%d", n.Name, n.Port))
		}
	}
	switch {
	case u.Resolution == policy.ResolutionNone:
		places = []string{"as dialled"}
	case len(u.Endpoints)+len(u.Names) == 0:
		places = []string{"no endpoint"}
	}
	if len(places) > 0 {
		s += " (" + strings.Join(places, " ") + ")"
	}
	return s
}

func by(r *policy.Ref, rule string) string {
	switch {
	case r == nil:
		return ""
	case rule != "":
		rule = "/" + rule
	}
	return "by " + object(r) + rule
}

func object(r *policy.Ref) string { return r.Kind + " " + r.Namespace + "/" + r.Name }

// more is what else acts on an allowed flow.
func more(d policy.Decision, u *policy.Upstream) string {
	s := ""
	if u != nil && u.TrafficRule != nil {
		s += ", with " + object(u.TrafficRule)
	}
	if d.Audited != nil {
		s += ", audited by " + object(d.Audited)
	}
	if d.DryRun != nil {
		s += ", dry-run denial by " + object(d.DryRun)
	}
	return s
}

// join joins what is not empty with spaces.
func join(list ...string) string {
	return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), " ")
}
