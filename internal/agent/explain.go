// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// Explanation is what "egressd explain" prints.
type Explanation struct {
	Target  string         `json:"target"`
	Allowed bool           `json:"allowed"`
	Verdict policy.Verdict `json:"verdict"`
	Reason  policy.Reason  `json:"reason"`
	// Rule allows the flow or, on a denial, comes nearest.
	Rule *policy.Ref `json:"rule,omitempty"`
	// Action is the HTTP rule that would act on the request.
	Action *policy.Ref `json:"action,omitempty"`
	Steps  []string    `json:"steps"`
	// Class, Considered and Nearest are those of policy.Explanation.
	Class      string              `json:"class,omitempty"`
	Considered []policy.Considered `json:"considered,omitempty"`
	Nearest    *policy.Considered  `json:"nearest,omitempty"`
	// Suggestion is a ServiceEntry that would allow a denied flow.
	Suggestion string `json:"suggestion,omitempty"`
}

// Target is what to explain: a URL, HOST:PORT or IP:PORT.
type Target struct {
	text      string
	transport policy.Transport
	url       *url.URL // nil unless a URL was given
	host      string   // normalized name, "" for an address
	addr      netip.Addr
	port      uint16
}

// ParseTarget reads what the user typed. HOST:PORT/udp asks about UDP.
func ParseTarget(s string) (Target, error) {
	t := Target{text: s, transport: policy.TCP}
	hostport := s
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			return t, fmt.Errorf("not a URL: %w", err)
		}
		port := u.Port()
		switch {
		case port != "":
		case u.Scheme == "http":
			port = "80"
		case u.Scheme == "https":
			port = "443"
		default:
			return t, fmt.Errorf("%s: give a port with the scheme %q", s, u.Scheme)
		}
		t.url = u
		hostport = net.JoinHostPort(u.Hostname(), port)
	} else if rest, proto, ok := strings.Cut(s, "/"); ok {
		switch proto {
		case "tcp":
		case "udp":
			t.transport = policy.UDP
		default:
			return t, fmt.Errorf("%s: the transport after the slash is tcp or udp", s)
		}
		hostport = rest
	}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return t, fmt.Errorf("%s: give a URL, HOST:PORT or IP:PORT", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return t, fmt.Errorf("%s: the port is a number from 1 to 65535", s)
	}
	t.port = uint16(n)
	if t.addr, err = netip.ParseAddr(host); err == nil {
		t.addr = t.addr.Unmap()
		return t, nil
	}
	if t.host, err = hostname.Normalize(host); err != nil {
		return t, fmt.Errorf("%s: not a host name: %w", s, err)
	}
	return t, nil
}

// Learned tells what is known about addresses; nil when nothing is (offline).
type Learned interface {
	NamesOf(policy.PolicyID, netip.Addr) []string
	AddrsOf(policy.PolicyID, string) []netip.Addr
	Lately(policy.PolicyID, netip.Addr) (string, time.Time, bool)
}

// Explain says what would happen to a flow of a workload ("name" or
// "namespace/name", "" for every process that nobody described), and why, step
// by step.
func Explain(s *policy.Snapshot, learned Learned, t Target, method, workload string) (Explanation, error) {
	p, err := policyOf(s, workload)
	if err != nil {
		return Explanation{}, err
	}
	x := explainer{Explanation: Explanation{Target: t.text}, p: p, learned: learned, t: t}
	if t.addr.IsValid() {
		x.address()
	} else {
		x.name(method)
	}
	x.Allowed = x.Verdict != policy.Deny
	x.why(method)
	if !x.Allowed && wishable(x.Reason) {
		x.Suggestion = Suggest(Wish{Name: t.host, Addr: t.addr, Port: t.port, Transport: t.transport, URL: t.url != nil})
	}
	return x.Explanation, nil
}

type explainer struct {
	Explanation
	p       *policy.Policy
	learned Learned
	t       Target
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
	switch {
	case x.t.addr.IsLoopback() || x.t.addr.IsUnspecified():
		x.step("connect: %s is loopback; it never leaves the node and is not decided", x.t.addr)
		x.Verdict, x.Reason = policy.Direct, policy.ReasonAllowed
		return
	case x.learned == nil:
		x.step("address: offline; which names %s was learned for is known to a running daemon only", x.t.addr)
	default:
		f.Names = x.learned.NamesOf(x.p.ID(), x.t.addr)
		if len(f.Names) == 0 {
			x.step("address: %s was not learned for any allowed name", x.t.addr)
			if name, until, ok := x.learned.Lately(x.p.ID(), x.t.addr); ok {
				x.step("address: %s", former(name, until))
			}
		} else {
			x.step("address: %s was learned for %s", x.t.addr, strings.Join(f.Names, ", "))
		}
	}
	d := x.p.Decide(f)
	x.take(d)
	if d.Verdict == policy.Deny {
		x.step("connect: refused (%s): nothing opens %s port %d/%s", d.Reason, x.t.addr, x.t.port, x.t.transport)
		x.nearest(d.Rule)
		return
	}
	if d.Rule == nil {
		x.step("connect: verdict %s: no rule names the destination, and what none names may pass", d.Verdict)
	} else {
		x.step("connect: verdict %s by %s", d.Verdict, d.Rule)
	}
	x.endpoints(d.To)
	if d.Verdict == policy.Proxy && x.t.transport == policy.TCP {
		x.core(x.p.Candidates(f).Decision)
	}
}

// name explains a flow to a name: DNS, connect, and what the proxy reads.
func (x *explainer) name(method string) {
	q := x.p.DecideQuery(x.t.host)
	h := x.p.Lookup(x.t.host)
	switch {
	case q.Verdict == policy.Deny && q.Rule == nil:
		x.step("dns: %s is not allowed; the query is denied and not forwarded", x.t.host)
		x.Reason = policy.ReasonName
		return
	case q.Verdict == policy.Deny:
		x.step("dns: no port of %s is left (%s); the query is denied and not forwarded", x.t.host, q.Reason)
		x.take(q)
		x.nearest(q.Rule)
		return
	case h == nil:
		x.step("dns: no rule names %s, and what none names may pass; the query is forwarded, nothing is learned", x.t.host)
		x.take(q)
		return
	}
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
	host, port := x.p.LookupPort(x.t.host, x.t.transport, x.t.port)
	if port == nil {
		d := x.p.Decide(policy.Flow{
			Transport: x.t.transport,
			Dst:       netip.AddrPortFrom(netip.Addr{}, x.t.port),
			Names:     []string{x.t.host},
		})
		x.Reason, x.Rule = d.Reason, h.Rule
		x.step("connect: refused: %s is not allowed on port %d/%s; it is on %s",
			x.t.host, x.t.port, x.t.transport, ports(h))
		x.nearest(h.Rule)
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
	x.protocol(port, method)
}

// protocol explains what the forwarding core does on the port.
func (x *explainer) protocol(port *policy.HostPort, method string) {
	pr := port.Protocol
	f := policy.Flow{Transport: policy.TCP, Dst: netip.AddrPortFrom(netip.Addr{}, x.t.port), Names: []string{x.t.host}}
	https := x.t.url != nil && x.t.url.Scheme == "https"
	switch {
	case pr.IsTLS() && x.t.url != nil && !https:
		x.step("the port speaks TLS; plain HTTP is refused (%s)", policy.ReasonNotTLS)
		x.Verdict, x.Reason = policy.Deny, policy.ReasonNotTLS
	case pr.IsHTTP() && https:
		x.step("proxy: the port speaks plain HTTP; TLS is refused (%s)", policy.ReasonNotHTTP)
		x.Verdict, x.Reason = policy.Deny, policy.ReasonNotHTTP
	case x.Verdict == policy.Inspect:
		x.step("kernel: straight there; the ClientHello is read on the way, and its SNI must be %s", x.t.host)
	case x.Verdict == policy.Direct:
		x.step("kernel: straight there; nothing else is looked at")
	case pr.IsTLS() || https:
		if d, _ := x.p.DecideTLS(f, x.t.host); x.core(d) {
			x.step("proxy: the SNI must be %s; the connection is spliced to egressd's own answer for it", x.t.host)
		}
	case pr.IsHTTP():
		x.http(method, f)
	case pr == policy.ProtocolTCP:
		if x.core(x.p.Candidates(f).Decision) {
			x.step("proxy: opaque bytes to egressd's choice of endpoint")
		}
	}
}

func (x *explainer) http(method string, f policy.Flow) {
	r := x.request(method)
	d := x.p.DecideHTTP(f, r)
	x.take(d.Decision)
	switch {
	case d.Verdict == policy.Deny:
		x.step("http: %s %s is refused (%s)", r.Method, r.Path, d.Reason)
		x.nearest(d.Rule)
	case d.Action == nil:
		x.step("http: no VirtualService acts on the host; %s %s is forwarded", r.Method, r.Path)
	default:
		rule := d.Action.Rule
		for _, h := range d.Hops() {
			x.step("http: %s %s is matched by %s, which leads to gateway %s port %d", r.Method, r.Path, h.Action.Rule.Ref, h.To.Gateway.Name, h.To.Gateway.Port)
		}
		x.Action = &rule.Ref
		x.step("http: %s %s is matched by %s", r.Method, r.Path, rule.Ref)
		for _, s := range describe(d.Action) {
			x.step("http: %s", s)
		}
	}
}

// describe lists what a rule does, in the order in which it happens.
func describe(a *policy.HTTPAction) []string {
	r := a.Rule
	var out []string
	if f := r.Fault; f != nil {
		if f.Delay > 0 {
			out = append(out, fmt.Sprintf("delay %s for %g%% of the requests", f.Delay, f.DelayPercent))
		}
		if f.AbortStatus != 0 {
			out = append(out, fmt.Sprintf("abort with %d for %g%% of the requests", f.AbortStatus, f.AbortPercent))
		}
	}
	switch {
	case r.Redirect != nil:
		out = append(out, fmt.Sprintf("redirect with %d", r.Redirect.Code))
	case r.DirectResponse != nil:
		out = append(out, fmt.Sprintf("answer %d without an upstream", r.DirectResponse.Status))
	}
	for i := range a.Destinations {
		d := &a.Destinations[i]
		switch {
		case d.Gateway != nil:
			out = append(out, fmt.Sprintf("go on as gateway %s port %d, %d of %d", d.Gateway.Name, d.Gateway.Port, d.Weight, a.TotalWeight))
		case d.Denied:
			out = append(out, fmt.Sprintf("route to %s: not allowed for the workload", d.Destination.Host))
		case d.Upstream == nil:
			out = append(out, fmt.Sprintf("route to %s: no such service (503)", d.Destination.Host))
		default:
			out = append(out, fmt.Sprintf("route to %s port %d, %d of %d",
				d.Upstream.Host, d.Upstream.Port, d.Weight, a.TotalWeight))
		}
	}
	if r.Timeout > 0 {
		out = append(out, fmt.Sprintf("timeout %s, counted from the request; then 504", r.Timeout))
	}
	if r.Retries != nil {
		out = append(out, fmt.Sprintf("%d retries on %s", r.Retries.Attempts, strings.Join(r.Retries.On, ",")))
	}
	return out
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

// serveExplain answers "egressd explain" with the live policy.
func (a *Agent) serveExplain(w http.ResponseWriter, r *http.Request) {
	t, err := ParseTarget(r.URL.Query().Get("target"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s := a.current.p.Load()
	if s == nil {
		http.Error(w, "no policy yet", http.StatusServiceUnavailable)
		return
	}
	method := r.URL.Query().Get("method")
	if method == "" {
		method = http.MethodGet
	}
	x, err := Explain(s, a.names, t, method, r.URL.Query().Get("workload"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	writeJSON(w, x)
}
