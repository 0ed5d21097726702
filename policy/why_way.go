// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
)

// way says what the decision met: the rules of gateways, what became of the
// AuthorizationPolicies, and which DestinationRules count.
func (w *why) way(t *Trace) {
	each(t, w.l4Rules)
	first, ended := true, false
	for i, m := range t.met {
		switch m := m.(type) {
		case metPort:
			w.port(t, m)
		case metAuthorizer:
			m.authorizer.Explain(m.port.label(), &m.facts, w.tell)
		case metGateway:
			m.gateway.authorizer.Explain(m.gateway.label(), &m.facts, w.tell)
		case metDraw:
			if m.to != nil && m.to.Gateway != nil {
				w.nextHop(m, t.met[i+1:])
			}
		case metRules:
			if !first {
				w.gatewayRules(m)
			}
			first = false
		case metEnd:
			ended = true
			w.traffic(m.upstream)
		}
	}
	if hp := w.d.Port; hp != nil && !ended {
		w.traffic(hp.Upstream)
	}
}

// label names the port's rule.
func (hp *HostPort) label() string {
	return fmt.Sprintf("%s %s/%s", hp.Rule.Kind, hp.Rule.Namespace, hp.Rule.Name)
}

// label names the gateway and its port.
func (l *GatewayListener) label() string { return fmt.Sprintf("gateway %s %s", l.Name, l.Place()) }

// port says what guards a port. What only the kernel knows of a flow counts
// when the kernel decides, or denies.
func (w *why) port(t *Trace, m metPort) {
	read := w.r != nil || w.f.HostFrom == EvidenceSNI && w.f.Host != ""
	if m.kernel && read && !(w.d.byAuthorizer() && w.d.Port == nil) {
		return
	}
	better := false // the same port is known with more
	each(t, func(o metPort) { better = better || o.port == m.port && m.kernel && !o.kernel })
	if !better {
		m.port.authorizer.Explain(m.port.label(), &m.facts, w.tell)
	}
}

// nextHop says what becomes of a flow that goes on as a gateway, by what was met
// after that.
func (w *why) nextHop(m metDraw, then []any) {
	l := m.to.Gateway
	for _, next := range then {
		switch next := next.(type) {
		case metEntry:
			switch {
			case next.route != nil:
				w.tell(*next.route.ref, w.Allowed, "is the rule of %s, which connections to %s go through", l.label(), m.to.Destination.Host)
			case next.reason == ReasonAllowed:
				w.tell(*m.rule, true, "goes on through %s (%s)", l.label(), m.to.Destination.Host)
			default:
				w.tell(*m.rule, false, "goes on through %s (%s), which has no rule for it (%s)", l.label(), m.to.Destination.Host, next.reason)
			}
			return
		case metDraw:
			return
		}
	}
	w.tell(*m.rule, false, "goes on through %s (%s), and is denied on the way (%s)", l.label(), m.to.Destination.Host, w.Reason)
}

// tell is say unless it is said already.
func (w *why) tell(rule Ref, won bool, format string, args ...any) {
	c := Considered{rule, won, fmt.Sprintf(format, args...)}
	if !slices.Contains(w.Considered, c) {
		w.Considered = append(w.Considered, c)
	}
}

// traffic says which DestinationRule counts for an upstream.
func (w *why) traffic(u *Upstream) {
	if u == nil || u.TrafficRule == nil {
		return
	}
	of := fmt.Sprintf("%s port %d", u.Host, u.Port)
	if u.Subset != "" {
		of += fmt.Sprintf(" subset %q", u.Subset)
	}
	if no := u.Unsupported(); no != "" && !u.unreachable() {
		w.tell(*u.TrafficRule, true, "is for %s: %s, which egressd does not do", of, no)
		return
	}
	if u.Traffic != nil {
		of += ": " + u.Traffic.Describe()
	}
	if u.Transport() != "" {
		of += "; " + u.how()
	}
	w.tell(*u.TrafficRule, true, "is for %s", of)
}
