// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy/internal/authz"
)

// Text is the snapshot in its canonical form: what is open, by which rule,
// and what happens to it. It is for people and for golden files. Whatever
// changes a decision changes the text.
func (s *Snapshot) Text() string {
	var b strings.Builder
	_ = writeLines(&b, func(l *lines) { // a strings.Builder does not fail
		t := &text{l}
		for _, p := range s.policies {
			t.policy(p)
		}
		t.workloads(s)
		for _, l := range s.listeners {
			t.listener(l)
		}
	})
	return b.String()
}

// text writes the canonical form of what is compiled.
type text struct{ *lines }

// guard writes what AuthorizationPolicies say about a destination.
func (t *text) guard(depth int, g *authz.Authorizer) {
	g.Text(func(below int, format string, args ...any) { t.line(depth+below, format, args...) })
}

func (t *text) policy(p *Policy) {
	t.line(0, "policy %d", p.id)
	for _, h := range p.Hosts() {
		t.host(h)
	}
	for _, o := range p.Static() {
		e, _ := p.addrs.entries.Get(addressKey{o.Prefix, o.Transport, o.Port})
		if e.shut() {
			t.line(1, "address %v %v %d shut", o.Prefix, o.Transport, o.Port)
			continue
		}
		t.line(1, "address %v %v %d %v%s%s%s%s%s%s", o.Prefix, o.Transport, o.Port, o.Way(), proved(o.Name),
			kind("first", e.first), kind("http", e.http), kind("tls", e.tls), kind("opaque", e.opaque), kind("unset", e.unset))
	}
	for _, k := range slices.SortedFunc(maps.Keys(p.cluster.keys()), compareKey) {
		e, _ := p.cluster.entries.Get(k)
		e.write(t.lines, 1, k)
	}
	t.rules(p)
}

// rules writes what of a policy is not about single hosts.
func (t *text) rules(p *Policy) {
	t.terms(p)
	for _, v := range p.vhostList {
		t.vhost(v)
	}
	t.goneOn(p)
}

// terms writes what is said of the policy as a whole.
func (t *text) terms(p *Policy) {
	if p.class.outbound != RegistryOnly || p.class.outboundRule != nil {
		t.line(1, "outbound %v (%v)", p.class.outbound, p.class.outboundRule)
	}
	if len(p.inside) > 0 {
		t.line(1, "cluster %v names %v servers %v rules of %q and %q", p.inside, p.domains, p.ClusterServers(), p.class.home, p.index.cfg.Mesh.Root())
	}
	if p.class.shares {
		t.line(1, "at an address of several: %s first", p.class.home)
	}
	t.retries(1, "default retry", p.class.retries)
	for _, name := range slices.Sorted(maps.Keys(p.reserved)) {
		t.line(1, "%s of namespace %s is no name of %v", name, p.reserved[name].owner, p.reserved[name].from)
	}
}

// vhost writes the rules for a host.
func (t *text) vhost(v *meshVhost) {
	t.line(1, "routes %s", v.pattern)
	for _, c := range v.http {
		t.on(c.on)
		if len(c.vs.Ports) > 0 {
			t.line(2, "on ports %v alone", c.vs.Ports)
		}
		t.routes(c.other)
		for _, port := range slices.Sorted(maps.Keys(c.byPort)) {
			t.line(2, "on port %d", port)
			t.routes(c.byPort[port])
		}
	}
	t.l4("tls", v.tls)
	t.l4("tcp", v.tcp)
}

// goneOn writes the gateways as which connections go on.
func (t *text) goneOn(p *Policy) {
	for _, l := range p.gateways {
		t.line(1, "on as gateway %s port %d %s", l.Name, l.Port, protocolText(l.Protocol))
		t.guard(2, l.authorizer)
		t.chains(2, l)
	}
}

// l4 writes rules for TLS or TCP.
func (t *text) l4(kind string, routes []l4Route) {
	for _, r := range routes {
		t.on(r.on)
		t.line(2, "%s %s (%v)", kind, l4MatchText(r.match), r.ref)
		t.destinations(3, r.destinations, r.total)
	}
}

// on writes the ports that the next rules are for, when they are not for all.
func (t *text) on(s portSet) {
	switch {
	case s.only:
		t.line(2, "on listeners %v alone", s.list)
	case !s.all():
		t.line(2, "on listeners but %v", s.list)
	}
}

func l4MatchText(m *L4Match) string {
	if m == nil {
		return "any"
	}
	var out []string
	if len(m.SNIHosts) > 0 {
		out = append(out, fmt.Sprintf("sni %v", m.SNIHosts))
	}
	if len(m.Subnets) > 0 {
		out = append(out, fmt.Sprintf("to %v", m.Subnets))
	}
	if m.Port != 0 {
		out = append(out, fmt.Sprintf("port %d", m.Port))
	}
	if len(out) == 0 {
		return "any"
	}
	return strings.Join(out, " ")
}

// workloads writes which policy each workload has.
func (t *text) workloads(s *Snapshot) {
	for _, w := range s.workloads {
		t.line(0, "workload %s policy %d (%v)", workloadText(w.Workload), w.Policy, w.Ref)
	}
}

func workloadText(w *Workload) string {
	mode := "of the node"
	if w.Mode != nil {
		mode = w.Mode.String()
	}
	return fmt.Sprintf("%s/%s mode %s cgroups %q", w.Namespace, w.Name, mode, w.Claims())
}

// proved is the name that an address proves.
func proved(name string) string {
	if name == "" {
		return ""
	}
	return " proves " + name
}

// kind names the host and port that an address opens for a kind of flow.
func kind(name string, hp *HostPort) string {
	if hp == nil {
		return ""
	}
	return fmt.Sprintf(" %s=%s:%d", name, hp.Upstream.Host, hp.Number)
}

func (t *text) host(h *Host) {
	t.line(1, "host %s (%v)", h.Pattern, h.Rule)
	if h.Own {
		t.line(2, "answers %v", h.Answers)
	}
	if len(h.Literal) > 0 {
		t.line(2, "literal %v", h.Literal)
	}
	if h.AllowPrivate {
		t.line(2, "allow-private")
	}
	for _, hp := range h.Ports {
		t.line(2, "port %d/%v %s %v (%v)", hp.Number, hp.Protocol.Transport(), protocolText(hp.Protocol), hp.Verdict, hp.Rule)
		if hp.ruled {
			t.line(3, "by rules alone")
		}
		t.line(3, "upstream %v", fullUpstream{hp.Upstream})
		t.guard(3, hp.authorizer)
		for i, family := range [...]string{"ipv6", "ipv4"} {
			if w := hp.learned[i]; w != (Way{Verdict: hp.Verdict}) {
				t.line(3, "learned %s %v", family, w)
			}
		}
	}
}

func protocolText(p Protocol) string {
	if p == ProtocolUnset {
		return "(unset)"
	}
	return p.String()
}

// upstreamText writes an Upstream in full.
func upstreamText(u *Upstream) string { return fullUpstream{u}.String() }

// fullUpstream is an Upstream that is written in full.
type fullUpstream struct{ *Upstream }

func (u fullUpstream) String() string { return u.text(u.TrafficRule) }

// Apart takes the position of the traffic policy apart.
func (u fullUpstream) Apart(apart func(any) any) any { return u.text(apart(u.TrafficRule)) }

// text calls the rule of the traffic policy as it is told.
func (u fullUpstream) text(rule any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d %s %v", u.Host, u.Port, protocolText(u.Protocol), u.Resolution)
	if u.TargetPort != u.Port {
		fmt.Fprintf(&b, " target-port %d", u.TargetPort)
	}
	if u.Subset != "" {
		fmt.Fprintf(&b, " subset %s", u.Subset)
	}
	for _, e := range u.Endpoints {
		if e.Unix != "" {
			fmt.Fprintf(&b, " unix:%s", e.Unix)
		} else {
			fmt.Fprintf(&b, " %v", e.Addr)
		}
		if e.Weight != 1 {
			fmt.Fprintf(&b, "*%d", e.Weight)
		}
		if e.Locality != "" {
			fmt.Fprintf(&b, " in %s", e.Locality)
		}
	}
	for _, n := range u.Names {
		fmt.Fprintf(&b, " %s:%d", n.Name, n.Port)
		if n.Weight != 1 {
			fmt.Fprintf(&b, "*%d", n.Weight)
		}
		if n.Locality != "" {
			fmt.Fprintf(&b, " in %s", n.Locality)
		}
	}
	if u.empty {
		b.WriteString(" no endpoint")
	}
	if u.refused != "" {
		fmt.Fprintf(&b, " without %s", u.refused)
	}
	if u.Traffic != nil {
		fmt.Fprintf(&b, " traffic %s (%v)", u.Traffic.Describe(), rule)
		b.WriteString(u.failoverText())
	}
	return b.String()
}

func (t *text) routes(rs *Routes) {
	t.line(2, "of %v", rs.Refs)
	for _, r := range rs.routes {
		t.line(2, "if %s", r.match.Text(r.action.Match))
		t.action(r.action)
	}
}

func (t *text) action(a *HTTPAction) {
	t.line(3, "rule %q (%v)", a.Rule.Name, a.Rule.Ref)
	t.destinations(3, a.Destinations, a.TotalWeight)
	t.list(3, a.Rule.Describe())
	for i := range a.mirrors {
		t.line(3, "mirror %g%%", a.mirrors[i].percent)
		t.destinations(4, []RouteDestination{a.mirrors[i].to}, 1)
	}
}

func (t *text) list(depth int, all []string) {
	for _, s := range all {
		t.line(depth, "%s", s)
	}
}

func (t *text) retries(depth int, what string, x *Retries) {
	if x != nil {
		t.line(depth, "%s: %s", what, x.Describe())
	}
}

func (t *text) destinations(depth int, all []RouteDestination, total uint32) {
	for _, d := range all {
		var to any = "unknown"
		if d.Upstream != nil {
			to = fullUpstream{d.Upstream}
		}
		denied := ""
		if d.Denied {
			denied = "denied "
		}
		if g := d.Gateway; g != nil {
			to = fmt.Sprintf("on as gateway %s port %d", g.Name, g.Port)
		}
		subset := ""
		if s := d.Destination.Subset; s != "" {
			subset = " subset " + s
		}
		t.line(depth, "to %s:%d%s %d/%d: %s%v", d.Destination.Host, d.Destination.Port, subset, d.Weight, total, denied, to)
		for _, g := range d.authorizers {
			t.guard(depth+1, g.authorizer)
		}
		t.list(depth+1, d.Headers.Describe())
	}
}

// Describe says where the destination is: the gateway as which a flow goes on,
// or the host, port and subset.
func (d *RouteDestination) Describe() string {
	switch {
	case d.Gateway != nil:
		return "go on through " + d.Gateway.label() + " (" + d.Destination.Describe() + ")"
	case d.Upstream == nil:
		return "route to " + d.Destination.Describe()
	}
	out := fmt.Sprintf("route to %s port %d", d.Upstream.Host, d.Upstream.Port)
	if d.Upstream.Subset != "" {
		out += fmt.Sprintf(" subset %q", d.Upstream.Subset)
	}
	return out
}
