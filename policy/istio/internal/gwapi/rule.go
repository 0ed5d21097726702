// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// routeMatch is one match of a rule of an HTTPRoute. The matches of all rules
// compete, so that each becomes a rule by itself.
type routeMatch struct {
	place *strictyaml.Reporter
	at    *strictyaml.Node
	rule  *policy.HTTPRule // without the match
	match *policy.HTTPMatch
	width int
}

// translateRoute translates the rules of a route. What is left out is what the
// custom resource definition would fill in.
func (l *translator) translateRoute(r *gatewayRoute) {
	rules := r.V.Rules
	if len(rules) == 0 {
		rules = []gateway.HTTPRouteRule{{}}
	}
	names := map[gateway.SectionName]bool{}
	for i := range rules {
		at := r.spec("rules", i)
		if n := rules[i].Name; n != nil {
			if names[*n] {
				r.Errorf(at.At("name"), "Rule name must be unique within the route")
			}
			names[*n] = true
		}
		rule := l.gatewayRule(r, at, i, &rules[i])
		matches := rules[i].Matches
		if len(matches) == 0 {
			matches = []gateway.HTTPRouteMatch{{}}
		}
		for j := range matches {
			mn := at.At("matches", j)
			r.matches = append(r.matches, routeMatch{place: &r.Reporter, at: mn, rule: rule, match: r.gatewayMatch(mn, &matches[j])})
		}
	}
}

// gatewayRule translates a rule without its matches.
func (l *translator) gatewayRule(r *gatewayRoute, at *strictyaml.Node, i int, in *gateway.HTTPRouteRule) *policy.HTTPRule {
	out := &policy.HTTPRule{Ref: r.Ref, UnknownStatus: http.StatusInternalServerError}
	out.Ref.Line, out.Ref.Column = at.Line, at.Col
	// Unnamed rules get the name that Istio gives them.
	out.Name = string(value(in.Name, gateway.SectionName(fmt.Sprintf("%s.%s.%d", r.Ref.Namespace, r.Ref.Name, i))))
	l.filters(r, at, in, out)
	total := int64(0)
	for j := range in.BackendRefs {
		b := &in.BackendRefs[j]
		bn := at.At("backendRefs", j)
		w := &policy.WeightedDestination{
			Destination: l.backend(r.route(), bn, b.BackendObjectReference),
			Weight:      r.route().backendWeight(bn, b.Weight),
			Headers:     r.backendFilters(bn, b.Filters),
		}
		total += int64(w.Weight)
		l.origins[w] = strictyaml.Passage{Reporter: &r.Reporter, Node: bn.At("name")}
		out.Route = append(out.Route, w)
	}
	r.timeouts(at, in, out)
	if in.SessionPersistence != nil {
		r.Inert(at.KeyOf("sessionPersistence"), "sessionPersistence")
	}
	r.AuthorityRewrite(at, out)
	switch {
	case out.Redirect != nil && len(in.BackendRefs) > 0:
		r.Errorf(at.KeyOf("backendRefs"), "RequestRedirect filter must not be used together with backendRefs")
	case out.Redirect != nil:
	case total == 0:
		if len(in.BackendRefs) == 0 {
			r.Warnf(at, "no backendRefs: the requests are answered with 500")
		} else {
			r.Warnf(at.At("backendRefs"), "all weights are 0: the requests are answered with 500")
		}
		out.Route, out.DirectResponse = nil, &policy.DirectResponse{Status: http.StatusInternalServerError}
	}
	return out
}

func (r *route) backendWeight(at *strictyaml.Node, w *int32) uint32 {
	v := value(w, 1)
	if v < 0 || v > 1_000_000 {
		r.Errorf(at.At("weight"), "weight %d is not in the range 0 to 1000000", v)
	}
	return uint32(max(v, 0))
}

// backend finds the host that a reference stands for.
func (l *translator) backend(o *route, at *strictyaml.Node, ref gateway.BackendObjectReference) policy.Destination {
	var out policy.Destination
	group, kind := value(ref.Group, ""), value(ref.Kind, "Service")
	switch {
	case o.ofGateway() && !(kind == "Hostname" && group == model.NetworkingGroup) && !(kind == "Service" && group == ""):
		// What is wrong with one backend is no matter of the others.
		o.Warnf(at.At("kind"), "a backend is a Service, or a Hostname of group %s, not kind %q of group %q%s: what would go there is answered with 500", model.NetworkingGroup, kind, group,
			strictyaml.DidYouMean(string(kind), []string{"Hostname", "Service"}))
		return out
	case kind == "Hostname" && group == model.NetworkingGroup:
		if ref.Namespace != nil {
			o.Errorf(at.KeyOf("namespace"), "namespace may not be set with Hostname type")
		}
		h, err := check.FQDN(string(ref.Name))
		if err != nil {
			o.Errorf(at.At("name"), "invalid backend host: %s", err)
		}
		out.Host = h
	case kind == "Service" && group == "":
		if !check.IsLabel(string(ref.Name)) {
			o.Errorf(at.At("name"), "service name invalid; the name of the Service must be used, not the hostname.")
		}
		namespace := string(value(ref.Namespace, gateway.Namespace(o.ref.Namespace)))
		if !l.granted(o, namespace, string(ref.Name)) {
			o.Warnf(at, "no ReferenceGrant of namespace %s lets a %s of namespace %s refer to the Service %s: what would go there is answered with 500", namespace, o.kind, o.ref.Namespace, ref.Name)
			return out
		}
		out.Host = model.KubernetesName(string(ref.Name), namespace)
	case kind == "Hostname" || kind == "ServiceEntry":
		o.Errorf(at.At("kind"), "referencing unsupported backendRef: group %q kind %q; write group: %s, kind: Hostname and the host as name",
			group, kind, model.NetworkingGroup)
	default:
		o.Errorf(at.At("kind"), "referencing unsupported backendRef: group %q kind %q%s", group, kind,
			strictyaml.DidYouMean(string(kind), []string{"Hostname", "Service"}))
	}
	if ref.Port == nil {
		o.Errorf(at, "port is required in backendRef")
		return out
	}
	if *ref.Port < 1 || *ref.Port > 65535 {
		o.Errorf(at.At("port"), "port number %d must be in the range 1..65535", *ref.Port)
		return out
	}
	out.Port = uint16(*ref.Port)
	return out
}

// timeouts reads timeouts and retry. A rule without retry has one attempt,
// for which the shorter of its two timeouts counts.
func (r *gatewayRoute) timeouts(at *strictyaml.Node, in *gateway.HTTPRouteRule, out *policy.HTTPRule) {
	perTry := time.Duration(0)
	if t := in.Timeouts; t != nil {
		out.Timeout = r.gatewayDuration(at.At("timeouts", "request"), "timeouts.request", t.Request)
		perTry = r.gatewayDuration(at.At("timeouts", "backendRequest"), "timeouts.backendRequest", t.BackendRequest)
		if out.Timeout != 0 && perTry > out.Timeout {
			r.Errorf(at.At("timeouts", "backendRequest"), "backendRequest timeout cannot be longer than request timeout")
		}
	}
	if in.Retry == nil {
		out.Timeout = cmp.Or(perTry, out.Timeout)
		return
	}
	at = at.At("retry")
	attempts := value(in.Retry.Attempts, 2) // without a number as Istio
	if attempts < 1 {
		r.Errorf(at.At("attempts"), "attempts %d must be 1 or more", attempts)
	}
	out.Retries = &policy.Retries{
		Attempts: max(attempts, 0), PerTryTimeout: perTry,
		Backoff: r.gatewayDuration(at.At("backoff"), "retry.backoff", in.Retry.Backoff),
		On:      []string{"connect-failure", "refused-stream", "unavailable", "cancelled"},
	}
	for i, code := range in.Retry.Codes {
		if code < 400 || code > 599 {
			r.Errorf(at.At("codes", i), "status code %d is not in the range 400 to 599", code)
			continue
		}
		out.Retries.Codes = append(out.Retries.Codes, int(code))
	}
	if len(out.Retries.Codes) > 0 {
		out.Retries.On = append(out.Retries.On, model.RetriableCodes)
	}
}

var durationForm = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)

// gatewayDuration reads a duration as GEP-2257 has it; 0s is none.
func (o *HTTPRoute) gatewayDuration(at *strictyaml.Node, where string, d *gateway.Duration) time.Duration {
	if d == nil {
		return 0
	}
	v, err := time.ParseDuration(string(*d))
	if err != nil || !durationForm.MatchString(string(*d)) {
		o.Errorf(at, `%s: %q is not a duration; write it as "10s", "500ms" or "1m30s"`, where, *d)
	}
	return v
}

// rulesOf puts the rules of the routes of a host in order of precedence, and
// says on which ports they act; nil: on all.
func rulesOf(routes []attached) (ports []uint16, out []*policy.HTTPRule) {
	for _, a := range routes {
		ports = append(ports, a.ports...)
	}
	slices.Sort(ports)
	ports = slices.Compact(ports)
	if slices.ContainsFunc(routes, func(a attached) bool { return a.ports == nil }) {
		ports = nil
	}
	var all []routeMatch
	for _, a := range routes {
		on := a.ports
		if slices.Equal(on, ports) {
			on = []uint16{0}
		}
		for _, m := range a.route.matches {
			m.width = a.width
			for _, port := range on {
				n := m
				if port != 0 {
					match := *m.match
					match.Port = port
					n.match = &match
				}
				all = append(all, n)
			}
		}
	}
	slices.SortStableFunc(all, matchPrecedence)
	first := map[string]*policy.HTTPRule{}
	for _, m := range all {
		key := fmt.Sprint(m.width, " ", model.KeyOf(m.match))
		if before := first[key]; before != nil {
			m.place.Warnf(m.at, "the match is never used: the rule at %s has the same and comes before it", before.Ref.Position())
		} else {
			first[key] = m.rule
		}
		rule := *m.rule
		rule.Matches = []*policy.HTTPMatch{m.match}
		out = append(out, &rule)
	}
	return ports, out
}

// matchPrecedence orders matches as the Gateway API says; those that it leaves
// to others stay in the order in which they are: the oldest route first, in it
// the first rule. Of expressions it says nothing; they come where Istio has
// them, after the prefixes, except for "/", which would leave them nothing.
func matchPrecedence(a, b routeMatch) int {
	methods := func(m *policy.HTTPMatch) int {
		if m.Method != nil {
			return 1
		}
		return 0
	}
	return cmp.Or(
		cmp.Compare(a.width, b.width),
		cmp.Compare(pathRank(b.match), pathRank(a.match)),
		cmp.Compare(len(b.match.URI.Value), len(a.match.URI.Value)),
		cmp.Compare(methods(b.match), methods(a.match)),
		cmp.Compare(len(b.match.Headers), len(a.match.Headers)),
		cmp.Compare(len(b.match.QueryParams), len(a.match.QueryParams)),
	)
}

func pathRank(m *policy.HTTPMatch) int {
	switch {
	case m.URI.Kind == policy.MatchExact:
		return 3
	case m.URI.Kind == policy.MatchPathPrefix && m.URI.Value != "/":
		return 2
	case m.URI.Kind == policy.MatchRegex:
		return 1
	}
	return 0
}
