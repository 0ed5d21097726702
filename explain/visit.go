// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/egressd/egressd/policy"
)

// Visit says that a question is about somebody who comes to this node's gateway from
// outside, and what is known of them.
type Visit struct {
	// Gateway is NAMESPACE/NAME of a Gateway that must listen there; "": whichever does.
	Gateway string
	// From is the visitor's address; invalid: it is not known. Principal is the SPIFFE id
	// of its client certificate, without its scheme; "": it shows none.
	From      netip.Addr
	Principal string
}

// Query has what ParseVisit reads.
func (v *Visit) Query(q url.Values) {
	q.Set("visit", "1")
	q.Set("gateway", v.Gateway)
	q.Set("principal", v.Principal)
	if v.From.IsValid() {
		q.Set("from", v.From.String())
	}
}

// ParseVisit reads a visit of a query; nil: the question is about a workload.
func ParseVisit(q url.Values) (*Visit, error) {
	if q.Get("visit") == "" {
		return nil, nil
	}
	return NewVisit(q.Get("gateway"), q.Get("from"), q.Get("principal"))
}

// NewVisit is a visit as people write it; empty texts are what is not known.
func NewVisit(gateway, from, principal string) (*Visit, error) {
	v := &Visit{Gateway: gateway, Principal: strings.TrimPrefix(principal, "spiffe://")}
	if from == "" {
		return v, nil
	}
	a, err := netip.ParseAddr(from)
	if err != nil {
		return nil, fmt.Errorf("%q is no address of a visitor; write it as 203.0.113.7 or 2001:db8::7", from)
	}
	v.From = a.Unmap().WithZone("")
	return v, nil
}

// visit explains what a gateway of the node does with a visitor.
func (x *explainer) visit(s *policy.Snapshot, v *Visit) {
	x.undecided = true // the rules of workloads are not asked
	l := x.listener(s, v.Gateway)
	if l == nil {
		return
	}
	who := &policy.Visitor{Src: v.From, Remote: v.From, Principal: v.Principal}
	if !v.From.IsValid() {
		x.step("visitor: nothing is known of its address; --from says one, which policies with ipBlocks need")
	}
	switch {
	case l.IsTLS():
		x.hello(l, who)
	case x.t.speaks.IsTLS():
		x.Reason = policy.ReasonNotHTTP
		x.step("gateway: %s is for %s in plain text, and TLS comes; it is refused", l.Place(), protocolName(l.Protocol))
	case l.Protocol.IsHTTP():
		x.visited(l, who)
	default:
		d, u := l.DecideTCP(who, x.draw)
		x.passed(d, u, "the connection")
	}
}

// listener finds where the target's port is listened on; nil: nowhere.
func (x *explainer) listener(s *policy.Snapshot, gateway string) *policy.GatewayListener {
	var open []string
	var socket *policy.GatewayListener
	for _, l := range s.Listeners() {
		at := strings.TrimPrefix(l.Place(), "port ")
		open = append(open, fmt.Sprintf("%s (%s)", at, l.Name))
		if l.Unix != "" && gateway != "" && socket == nil && slices.Contains(strings.Split(l.Name, ","), gateway) {
			socket = l // a question has no other way to name one
		}
		if l.Unix != "" || l.Port != x.t.port || gateway != "" && !slices.Contains(strings.Split(l.Name, ","), gateway) {
			continue
		}
		if x.t.addr.IsValid() && l.Bind.IsValid() && !l.Bind.IsUnspecified() && l.Bind != x.t.addr {
			continue
		}
		return x.at(l)
	}
	if socket != nil {
		return x.at(socket)
	}
	x.Reason = policy.ReasonNoRule
	if len(open) == 0 {
		x.step("gateway: this node listens on no port for Gateways; --gateway-selector says whose it is")
		return nil
	}
	x.step("gateway: nothing listens there; open are %s", strings.Join(open, ", "))
	return nil
}

// at tells of the listener that a visitor comes to.
func (x *explainer) at(l *policy.GatewayListener) *policy.GatewayListener {
	x.step("gateway: %s is listened on for %s (%s)", l.Place(), l.Name, protocolName(l.Protocol))
	if l.Topology.ProxyProtocol {
		x.step("gateway: each connection must begin with a header of the PROXY protocol; whose address it names is the visitor")
	}
	if n := l.Topology.TrustedProxies; n > 0 {
		x.step("gateway: the visitor is number %d from the right in X-Forwarded-For", n)
	}
	return l
}

// hello explains a ClientHello, and the request within where its TLS ends.
func (x *explainer) hello(l *policy.GatewayListener, who *policy.Visitor) {
	if x.t.speaks != policy.ProtocolUnset && !x.t.speaks.IsTLS() {
		x.Reason = policy.ReasonNotTLS
		x.step("gateway: %s is for TLS, and plain text comes; it is refused", l.Place())
		return
	}
	sni := x.t.host
	who.SNI = sni
	said := "the SNI " + sni
	if sni == "" {
		said = "a ClientHello without SNI"
	}
	d := l.DecideTLS(who, sni, x.draw)
	if d.Server == nil {
		x.passed(d.Decision, d.Upstream, said)
		return
	}
	x.step("tls: %s chooses server %q of %s, which ends TLS (%v)%s", said, d.Server.Name, d.Server.Ref, d.Server.TLS.Mode, asks(d.Server.TLS.Mode))
	if d.Verdict == policy.Deny || d.Upstream != nil {
		x.passed(d.Decision, d.Upstream, "what is within")
		return
	}
	who.TLS = true
	x.visited(l, who)
}

// asks says what a mode asks of clients.
func asks(m policy.ServerTLSMode) string {
	switch m {
	case policy.ServerMutual:
		return "; a client without a certificate of its CA does not get further"
	case policy.ServerOptionalMutual:
		return "; a client certificate must be of its CA, if there is one"
	}
	return ""
}

// visited explains a request.
func (x *explainer) visited(l *policy.GatewayListener, who *policy.Visitor) {
	r := x.request()
	r.Port, r.Gateway, r.Visitor = l.Port, l.Name, who
	what := r.Method + " " + r.Path
	d := policy.HTTPDecision{}
	if who.TLS {
		r.Scheme = "https"
		d = l.DecideHTTPS(who.SNI, r)
	} else {
		d = l.DecideHTTP(r)
	}
	x.take(d.Decision)
	if d.Verdict == policy.Deny {
		x.step("http: %s for %s is refused (%s)%s", what, r.Host, d.Reason, answered(d.Reason))
		x.nearest(d.Rule)
		return
	}
	if d.Action == nil {
		x.step("http: %s for %s is forwarded", what, r.Host)
		return
	}
	rule := d.Action.Rule
	x.Action = &rule.Ref
	x.step("http: %s for %s is acted on by %s", what, r.Host, rule.Ref)
	for _, line := range rule.Describe() {
		x.step("http: %s", line)
	}
	for i := range d.Action.Destinations {
		to := &d.Action.Destinations[i]
		share := ""
		if len(d.Action.Destinations) > 1 {
			share = fmt.Sprintf(", %.4g%% of it", 100*float64(to.Weight)/float64(d.Action.TotalWeight))
		}
		if to.Upstream == nil {
			share += fmt.Sprintf(": nobody declares it, and requests are answered with 503 (%s)", policy.ReasonNoDestination)
		}
		x.step("http: %s%s", to.Describe(), share)
	}
}

// answered is the status of an answer to a visitor; "": it is not known here.
func answered(r policy.Reason) string {
	switch r {
	case policy.ReasonMisdirected:
		return " and answered with 421: the connection's SNI has chosen another server than the host's"
	case policy.ReasonAuthorization, policy.ReasonNoAllow:
		return " and answered with 403"
	case policy.ReasonNoRoute:
		return " and answered with 404: no rule bound to the Gateway matches"
	}
	return ""
}

// passed explains bytes of which no request is read.
func (x *explainer) passed(d policy.Decision, u *policy.Upstream, what string) {
	x.take(d)
	switch {
	case d.Verdict == policy.Deny:
		x.step("gateway: %s is refused (%s)", what, d.Reason)
		x.nearest(d.Rule)
	case u != nil:
		x.step("gateway: %s goes on to %s port %d, by %s", what, u.Host, u.Port, d.Rule)
	}
}
