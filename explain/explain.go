// SPDX-License-Identifier: Apache-2.0

// Package explain says for people what the policy does with a flow and why, and
// what would allow what was denied. It needs nothing of the daemon; what only that
// knows it is told.
package explain

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/telemetry"
	"github.com/egressd/egressd/policy"
)

// Explanation is what "egressd explain" prints.
type Explanation struct {
	Target string `json:"target"`
	// Allowed is what the policy says, whatever the mode.
	Allowed bool `json:"allowed"`
	// Mode is the workload's. Passes says whether the flow goes on: it does
	// when it is allowed, and in the modes audit and off also when it is not.
	Mode    policy.Mode    `json:"mode"`
	Passes  bool           `json:"passes"`
	Verdict policy.Verdict `json:"verdict"`
	Reason  policy.Reason  `json:"reason"`
	// Rule allows the flow or, on a denial, comes nearest.
	Rule *policy.Ref `json:"rule,omitempty"`
	// Action is the HTTP rule that would act on the request.
	Action *policy.Ref `json:"action,omitempty"`
	Steps  []string    `json:"steps"`
	// Route is the rule that acts on the flow, with every way that it may go;
	// DeniedShare is how much of it is denied, from 0 to 1.
	Route       *policy.Route `json:"route,omitempty"`
	DeniedShare float64       `json:"deniedShare,omitempty"`
	// Class, Considered and Nearest are those of policy.Account.
	Class      string              `json:"class,omitempty"`
	Considered []policy.Considered `json:"considered,omitempty"`
	Nearest    *policy.Considered  `json:"nearest,omitempty"`
	// Telemetry is what is logged, traced and counted of it; nil: nothing is said of that.
	Telemetry *telemetry.Effect `json:"telemetry,omitempty"`
	// Suggestion is what would allow a denied flow: a ServiceEntry, or ports to
	// add to one that is there.
	Suggestion string `json:"suggestion,omitempty"`
	// Upstream is where the flow goes where no rule chooses; nil: to its own destination,
	// or nowhere.
	Upstream *policy.Upstream `json:"-"`
}

// Learned tells what is known about addresses; nil when nothing is (offline).
type Learned interface {
	NamesOf(policy.PolicyID, netip.Addr) []string
	AddrsOf(policy.PolicyID, string) []netip.Addr
	Lately(policy.PolicyID, netip.Addr) (string, time.Time, bool)
}

// Question is what to explain, and for whom.
type Question struct {
	Target Target
	Method string      // of an HTTP request
	Header http.Header // of an HTTP request; Host says what that asks for
	// Workload is "name" or "namespace/name"; "": every process that nobody
	// described.
	Workload string
	// Visit is set when a visitor of the node's gateway asks; Workload is none then.
	Visit *Visit
	// Mode is the node's, for workloads that say none.
	Mode policy.Mode
	// Bound returns the mode that a workload ("namespace/name") has on this
	// node, which may be stricter than the one it asks for; nil: not known.
	Bound func(workload string) (policy.Mode, bool)
	// Observed says what is logged and traced where no Telemetry says otherwise; nil: what
	// the MeshConfig says.
	Observed *telemetry.Defaults
}

// Explain says what would happen to a flow of a workload, and why, step by
// step.
func Explain(s *policy.Snapshot, learned Learned, q Question) (Explanation, error) {
	p, w, err := policyOf(s, q.Workload)
	if err != nil {
		return Explanation{}, err
	}
	x := explainer{Explanation: Explanation{Target: q.Target.text, Mode: q.Mode}, p: p, learned: learned, t: q.Target, method: q.Method, header: q.Header}
	if w != nil {
		x.namespace, x.workload = w.Namespace, w.Key()
		if w.Mode != nil {
			x.Mode = *w.Mode
		}
		if q.Bound != nil {
			if m, ok := q.Bound(w.Key()); ok {
				x.Mode = m
			}
		}
	}
	if q.Visit != nil {
		x.Mode = policy.Enforce // Gateways know no other
		x.visit(s, q.Visit)
	} else {
		x.decide()
		x.nowhere()
	}
	x.Allowed = x.Verdict != policy.Deny
	x.Passes = x.Allowed || x.Mode != policy.Enforce
	if !x.undecided {
		x.why()
	}
	x.watched(s, q)
	if q.Visit == nil && !x.Allowed && suggestable(x.Reason) {
		x.suggest()
	}
	return x.Explanation, nil
}

// decide follows the flow.
func (x *explainer) decide() {
	switch {
	case x.t.port == dnsService:
		x.resolver()
	case x.t.isLoopback():
		x.loopback()
	case x.t.addr.IsValid():
		x.address()
	default:
		x.name()
	}
}

type explainer struct {
	Explanation
	p         *policy.Policy
	learned   Learned
	t         Target
	method    string
	header    http.Header
	namespace string // of the workload; "": the default
	workload  string // "namespace/name"; "": it is not described
	// draw leads to the branch that is explained.
	draw uint64
	// port is what the flow is allowed by, before anything of it is read.
	port *policy.HostPort
	// host is what a denial met: the allowed host whose port is missing.
	host *policy.Host
	// undecided: no rule is asked.
	undecided bool
}

// The ports that egressd itself listens on for redirected connections.
const (
	ProxyPort = 15001
	DNSPort   = 15053
)

// Path is where the daemon's admin server explains; see Question for what the
// query says.
const Path = "/explain"

// dnsService is the port whose flows go to the DNS proxy.
const dnsService = 53

// resolver explains a flow to a DNS server: egressd answers in its place.
func (x *explainer) resolver() {
	if x.t.host != "" && !isLocalhost(x.t.host) && !x.resolves() {
		return
	}
	x.undecided = true
	x.Verdict, x.Reason = policy.Proxy, policy.ReasonAllowed
	x.step("connect: port 53 is redirected to egressd's DNS proxy, whatever the server's address is; the trusted servers are asked in its place")
	if x.p.IsInside(x.t.addr) {
		x.step("dns: names of the cluster are asked at this server, which is inside of the cluster, if it is open to the workload")
	}
	x.step("dns: each question is decided by the name in it: explain NAME:PORT says what becomes of a name")
}

// loopback explains a flow that stays on the node.
func (x *explainer) loopback() {
	x.undecided = true
	if x.t.port == ProxyPort || x.t.port == DNSPort {
		x.step("connect: port %d is egressd's own, for redirected connections only; who dials it is refused (%s)", x.t.port, policy.ReasonOwnPort)
		x.Reason = policy.ReasonOwnPort
		return
	}
	what := x.t.host
	if what == "" {
		what = x.t.addr.String()
	}
	x.step("connect: %s is loopback; it never leaves the node, and no policy decides about it", what)
	x.Verdict, x.Reason = policy.Direct, policy.ReasonAllowed
}

func (x *explainer) step(format string, args ...any) {
	x.Steps = append(x.Steps, fmt.Sprintf(format, args...))
}

func (x *explainer) take(d policy.Decision) {
	x.Verdict, x.Reason, x.Rule = d.Verdict, d.Reason, d.Rule
}

// address explains a flow that only shows an address: what the kernel sees.
func (x *explainer) address() {
	f := policy.Flow{Transport: x.t.transport, Dst: netip.AddrPortFrom(x.t.addr, x.t.port)}
	if x.learned == nil {
		x.step("address: offline; which names %s was learned for is known to a running daemon only", x.t.addr)
	} else if f.Names = x.learned.NamesOf(x.p.ID(), x.t.addr); len(f.Names) == 0 {
		x.step("address: %s was not learned for any allowed name", x.t.addr)
		if name, until, ok := x.learned.Lately(x.p.ID(), x.t.addr); ok {
			x.step("address: %s", Former(name, until))
		}
	} else {
		x.step("address: %s was learned for %s", x.t.addr, strings.Join(f.Names, ", "))
	}
	d := x.p.Decide(f)
	x.take(d)
	if x.inside(d) {
		return
	}
	if d.Verdict == policy.Deny {
		x.closedInside()
		x.step("connect: refused (%s): no rule allows %s port %d/%s", d.Reason, x.t.addr, x.t.port, x.t.transport)
		x.nearest(d.Rule)
		return
	}
	if d.Rule == nil {
		x.step("connect: verdict %s: no rule matches; outboundTrafficPolicy ALLOW_ANY allows it", d.Verdict)
	} else {
		x.step("connect: verdict %s by %s", d.Verdict, d.Rule)
	}
	x.endpoints(d.To)
	x.port = d.Port
	if d.Rule == nil || x.t.transport != policy.TCP || d.Verdict != policy.Proxy && d.Verdict != policy.Inspect {
		return
	}
	switch pr := x.t.speaks; {
	case pr.IsTLS():
		f.HostFrom = policy.EvidenceSNI
		if !x.ways("tls", "a connection without SNI", f, nil) {
			x.step("a ClientHello to an address carries no name (SNI), and the rules for the address ask for one; use the host's name")
		}
	case pr.IsHTTP() && d.Verdict == policy.Proxy:
		x.http(f)
	case d.Verdict == policy.Proxy:
		x.ways("tcp", "a connection", f, nil)
	}
}

// resolves explains the query for the target's name; it is false when there is
// nothing more to say.
func (x *explainer) resolves() bool {
	q := x.p.DecideQuery(x.t.host)
	h := x.p.Lookup(x.t.host)
	if h == nil && x.clusterName() {
		return false
	}
	switch {
	case q.Verdict == policy.Deny && q.Rule == nil:
		x.step("dns: %s is not allowed; the query is denied and not forwarded", x.t.host)
		x.Reason = policy.ReasonName
		return false
	case q.Verdict == policy.Deny:
		x.step("dns: no port of %s may be reached (%s); the query is denied and not forwarded", x.t.host, q.Reason)
		x.take(q)
		x.nearest(q.Rule)
		return false
	case h == nil:
		x.step("dns: no rule names %s; outboundTrafficPolicy ALLOW_ANY allows it: the query is forwarded, and nothing is learned", x.t.host)
		x.take(q)
		return false
	}
	x.host = h
	if h.Own {
		x.step("dns: egressd answers %s itself with %s", x.t.host, join(h.Answers))
	} else {
		x.step("dns: %s is allowed by %s (host %s); the query is forwarded and its answers are learned",
			x.t.host, h.Rule, h.Pattern)
	}
	if x.learned != nil {
		if addrs := x.learned.AddrsOf(x.p.ID(), x.t.host); len(addrs) > 0 {
			x.step("dns: learned now: %s", join(addrs))
		}
	}
	return true
}

// name explains a flow to a name: DNS, connect, and what the proxy reads.
func (x *explainer) name() {
	if !x.resolves() {
		return
	}
	host, port := x.p.LookupPort(x.t.host, x.t.transport, x.t.port)
	if port == nil {
		d := x.p.Decide(policy.Flow{
			Transport: x.t.transport,
			Dst:       netip.AddrPortFrom(netip.Addr{}, x.t.port),
			Names:     []string{x.t.host},
		})
		x.Reason, x.Rule = d.Reason, x.host.Rule
		x.step("connect: refused: %s is not allowed on port %d/%s; it is on %s",
			x.t.host, x.t.port, x.t.transport, ports(x.host))
		x.nearest(x.host.Rule)
		return
	}
	d := x.p.Decide(policy.Flow{Transport: x.t.transport, Dst: netip.AddrPortFrom(netip.Addr{}, x.t.port), Host: x.t.host})
	x.take(d)
	if d.Verdict == policy.Deny {
		x.step("connect: refused (%s): port %d (%s) of host %s", d.Reason, port.Number, protocolName(port.Protocol), host.Pattern)
		x.nearest(d.Rule)
		return
	}
	x.step("connect: port %d (%s) of host %s: verdict %s by %s",
		port.Number, protocolName(port.Protocol), host.Pattern, d.Verdict, port.Rule)
	if x.Verdict == policy.Direct || x.Verdict == policy.Inspect {
		x.reach(host, port)
	}
	x.port = port
	x.protocol(port)
}

// protocol explains what is read of the connection.
func (x *explainer) protocol(port *policy.HostPort) {
	pr := port.Protocol
	f := policy.Flow{Transport: policy.TCP, Dst: netip.AddrPortFrom(netip.Addr{}, x.t.port), Names: []string{x.t.host}}
	tls := x.t.speaks.IsTLS()
	named := f
	named.Host, named.HostFrom = x.t.host, policy.EvidenceSNI
	switch {
	case pr.IsTLS() && x.t.speaks != policy.ProtocolUnset && !tls:
		x.mismatch(port, policy.ReasonNotTLS, "TLS", "ClientHello")
	case pr.IsHTTP() && x.t.speaks != policy.ProtocolUnset && !x.t.speaks.IsHTTP():
		x.mismatch(port, policy.ReasonNotHTTP, "plain HTTP", "request")
	case x.Verdict == policy.Inspect:
		x.step("kernel: straight to the destination; the ClientHello is read on the way, and its SNI must be %s", x.t.host)
		x.ways("tls", "a connection to "+x.t.host, named, nil)
	case x.Verdict == policy.Direct:
		x.step("kernel: straight to the destination; nothing else is checked")
	case pr.IsTLS() || tls:
		if x.ways("tls", "a connection to "+x.t.host, named, nil) {
			answer := "it"
			if x.Route != nil {
				answer = "the destination"
			}
			x.step("proxy: the SNI must be %s; the connection is spliced to egressd's own answer for %s", x.t.host, answer)
		}
	case pr.IsHTTP() || pr == policy.ProtocolUnset && x.t.speaks.IsHTTP():
		x.http(f)
	case pr == policy.ProtocolTCP || x.t.speaks == policy.ProtocolTCP:
		if x.ways("tcp", "a connection", f, nil) {
			x.step("proxy: the bytes are passed unread to an endpoint that egressd chooses")
		}
	default:
		x.step("proxy: the first bytes tell: TLS needs the SNI %s, HTTP its Host; ask with https:// or http:// for more", x.t.host)
	}
}

// mismatch explains a client that does not begin as the port is declared.
func (x *explainer) mismatch(port *policy.HostPort, r policy.Reason, what, first string) {
	by := "kernel"
	if x.Verdict == policy.Proxy {
		by = "proxy"
	}
	says := fmt.Sprintf("a client of %s:// does not begin with a %s", x.t.url.Scheme, first)
	x.step("%s: the port speaks %s, and %s: the connection is reset (%s)", by, what, says, r)
	x.step("declare port %d as protocol %s in %s if that is what is served there", port.Number, x.t.speaks, port.Rule)
	x.Verdict, x.Reason = policy.Deny, r
}

func (x *explainer) http(f policy.Flow) {
	r := x.request()
	what := r.Method + " " + r.Path
	if x.ways("http", what, f, r) && x.Route == nil {
		x.step("http: no VirtualService acts on the host; %s is forwarded", what)
		if said := x.p.DefaultRetries(); said != "" {
			x.step("http: %s", said)
		}
	}
}

func (x *explainer) nearest(r *policy.Ref) {
	if r != nil {
		x.step("nearest rule: %s", r)
	}
}

func protocolName(p policy.Protocol) string {
	if p == policy.ProtocolUnset {
		return "by its first bytes"
	}
	return p.String()
}

func ports(h *policy.Host) string {
	var out []string
	for _, p := range h.Ports {
		out = append(out, fmt.Sprintf("%d/%s", p.Number, p.Protocol.Transport()))
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "no port"
	}
	return strings.Join(slices.Compact(out), ", ")
}

func join(addrs []netip.Addr) string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return strings.Join(out, ", ")
}

// Former says for what name an address was learned that does not count any more.
func Former(name string, until time.Time) string {
	return fmt.Sprintf("the address was learned for %s until %s; resolve the name again", name, until.Local().Format(time.TimeOnly))
}
