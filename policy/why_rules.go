// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy/internal/match"
)

// virtualServices goes through the VirtualServices with a host for a name.
func (w *why) virtualServices(name string) {
	v, _ := w.p.vhosts.Lookup(name)
	for _, vs := range w.p.index.cfg.VirtualServices {
		sc := w.p.class
		switch {
		case closestHost(vs, name) == "":
		case !slices.Contains(vs.Gateways, meshGateway):
			if !w.hasGateway(vs) {
				w.say(vs.Ref, false, "is for gateways (%s), not for workloads", strings.Join(vs.Gateways, ", "))
			}
		case !seesRules(w.p.index.cfg, vs, sc.identity.Namespace):
			w.say(vs.Ref, false, "not visible to namespace %s (exportTo)", sc.identity.Namespace)
		case !sc.sidecar.imports(vs):
			w.say(vs.Ref, false, "not imported by Sidecar %s/%s, which names none of its hosts in namespace %s", sc.sidecar.Ref.Namespace, sc.sidecar.Ref.Name, vs.Ref.Namespace)
		case v == nil: // cannot be: it is visible and has the host
		case w.r != nil:
			w.rules(v, vs, name)
		case w.f.Transport == TCP && !hasL4(vs):
			w.say(vs.Ref, false, "has rules for HTTP only")
		}
	}
}

// closestHost is the closest of the hosts that match a name; "" for none.
func closestHost(vs *VirtualService, name string) hostname.Pattern {
	var h hostname.Pattern
	for _, p := range vs.Hosts {
		if p.Matches(name) && (h == "" || hostname.Compare(p, h) < 0) {
			h = p
		}
	}
	return h
}

// hasGateway says whether connections may go on as a Gateway of vs.
func (w *why) hasGateway(vs *VirtualService) bool {
	return slices.ContainsFunc(w.p.gateways, func(l *GatewayListener) bool {
		return slices.ContainsFunc(strings.Split(l.Name, ","), func(g string) bool { return slices.Contains(vs.Gateways, g) })
	})
}

// rules says what became of the HTTP rules of a VirtualService.
func (w *why) rules(v *meshVhost, vs *VirtualService, name string) {
	port := w.f.Dst.Port()
	won, _ := v.rules(port)
	switch {
	case len(vs.HTTP) == 0:
		w.say(vs.Ref, false, "has no rules for HTTP")
	case won == vs:
		w.httpRules(vs)
	case !w.p.class.sidecar.actsOn(vs).has(port):
		w.say(vs.Ref, false, "not imported by the listener of Sidecar %s/%s for port %d", w.p.class.sidecar.Ref.Namespace, w.p.class.sidecar.Ref.Name, port)
	case len(vs.Ports) > 0 && !slices.Contains(vs.Ports, port):
		w.say(vs.Ref, false, "has rules for the ports %v, not for %d", vs.Ports, port)
	case won != nil && slices.Index(v.all, won) < slices.Index(v.all, vs):
		w.after(won, vs, name)
	default:
		w.say(vs.Ref, false, "has no rule for the workload and port %d, so that it does not apply", port)
	}
}

// after says why a VirtualService comes after the one that counts.
func (w *why) after(won, vs *VirtualService, name string) {
	c, own := w.p.index.cfg, w.p.class.identity.Namespace
	h := closestHost(vs, name)
	switch closer := closestHost(won, name); {
	case closer != h:
		w.say(vs.Ref, false, "host %s is less specific than %s of %s %s/%s", h, closer, won.Ref.Kind, won.Ref.Namespace, won.Ref.Name)
	case vs.Ref.Kind == won.Ref.Kind && nearness(c, vs, own) == nearness(c, won, own):
		w.say(vs.Ref, false, "younger than VirtualService %s/%s for host %s", won.Ref.Namespace, won.Ref.Name, h)
	case won.Ref.Namespace == own && vs.Ref.Namespace != own:
		w.say(vs.Ref, false, "comes after %s %s/%s for host %s, which is of the workload's own namespace", won.Ref.Kind, won.Ref.Namespace, won.Ref.Name, h)
	default:
		w.say(vs.Ref, false, "comes after %s %s/%s for host %s", won.Ref.Kind, won.Ref.Namespace, won.Ref.Name, h)
	}
}

func (w *why) httpRules(vs *VirtualService) {
	met := w.met()
	if met == nil {
		w.say(vs.Ref, false, "its rules are not asked: the request is denied before that")
		return
	}
	late := false
	for i, rule := range vs.HTTP {
		label := ruleLabel(i, rule.Name)
		misses, others := w.misses(rule)
		switch {
		case met.won != nil && met.won.Rule == rule:
			late = true
			w.say(rule.Ref, w.Allowed, "%s: matches", label)
		case late && !others:
			w.say(rule.Ref, false, "%s: comes after a rule that matches", label)
		default:
			w.say(rule.Ref, false, "%s: %s", label, strings.Join(misses, "; "))
		}
	}
}

// met are the HTTP rules of workloads that were asked; nil: none were.
func (w *why) met() *metRules {
	for _, m := range w.f.Trace.met {
		if r, ok := m.(metRules); ok {
			return &r
		}
	}
	return nil
}

// misses lists why each match of a rule fails; nil when one holds. others says
// that the rule is for other workloads, or for gateways.
func (w *why) misses(rule *HTTPRule) (out []string, others bool) {
	others = len(rule.Matches) > 0
	for _, m := range rule.Matches {
		text := w.p.class.misses(m.Gateways, m.SourceNamespace, m.SourceLabels)
		others = others && text != ""
		if c := w.p.index.matchers[m]; text == "" && c != nil {
			text = c.Miss(w.r)
		}
		if text == "" {
			return nil, false
		}
		out = append(out, text)
	}
	return out, others
}

// gatewayRules says what became of the rules of a Gateway that a request goes
// on as.
func (w *why) gatewayRules(m metRules) {
	late := false
	for i, route := range m.rules.routes {
		label := "gateway " + ruleLabel(i, route.action.Rule.Name)
		switch {
		case route.action == m.won:
			late = true
			w.say(route.action.Rule.Ref, w.Allowed, "%s: matches", label)
		case late:
			w.say(route.action.Rule.Ref, false, "%s: comes after a rule that matches", label)
		default:
			w.say(route.action.Rule.Ref, false, "%s: %s", label, route.match.Miss(m.r))
		}
	}
}

// ruleLabel names a rule: by its name, or by its place from 1.
func ruleLabel(i int, name string) string {
	if name != "" {
		return fmt.Sprintf("rule %q", name)
	}
	return fmt.Sprintf("rule %d", i+1)
}

// l4Rules says what became of the rules for TLS and TCP that were asked.
func (w *why) l4Rules(m metL4) {
	kind := "tcp"
	if m.complete {
		kind = "tls"
	}
	late := false
	for i := range m.routes {
		r := &m.routes[i]
		label := fmt.Sprintf("%s rule %d", kind, i+1)
		switch {
		case r == m.won:
			late = true
			w.tell(*r.ref, w.Allowed, "%s: %s matches", label, l4MatchText(r.match))
		case late:
			w.tell(*r.ref, false, "%s: comes after a rule that matches", label)
		default:
			w.tell(*r.ref, false, "%s: %s does not match", label, l4MatchText(r.match))
		}
	}
	if m.won == nil && m.complete {
		w.tell(*m.routes[0].ref, false, "is for port %d, as are others that do not match either: with rules for TLS a connection has to match one", w.f.Dst.Port())
	}
}

// misses says what a match asks of the workload that it is not; "" for
// nothing.
func (sc *identityClass) misses(gateways []string, namespace string, labels map[string]string) string {
	switch {
	case len(gateways) > 0 && !slices.Contains(gateways, meshGateway):
		return fmt.Sprintf("is for gateways (%s)", strings.Join(gateways, ", "))
	case namespace != "" && namespace != sc.identity.Namespace:
		return fmt.Sprintf("sourceNamespace %s is not %s", namespace, sc.identity.Namespace)
	case !match.Labels(labels, sc.identity.Labels):
		return fmt.Sprintf("sourceLabels %v are not those of the workload", labels)
	}
	return ""
}
