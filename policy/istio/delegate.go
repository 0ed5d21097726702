// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/requests"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// httpSource is a rule as it is read, with what tells "unset" from a default.
type httpSource struct {
	d    decoded[networking.VirtualService]
	at   *strictyaml.Node
	in   *networking.HTTPRoute
	rule *policy.HTTPRule
}

// delegateVS is a VirtualService without hosts, to which others delegate.
type delegateVS struct {
	decoded[networking.VirtualService]
	export policy.Visibility
	rules  []httpSource
	used   bool
}

func isDelegate(d decoded[networking.VirtualService]) bool { return len(d.v.Hosts) == 0 }

// readDelegates reads the VirtualServices without hosts, and leaves the rest
// in l.virtuals.
func (l *loader) readDelegates() {
	l.delegates = map[string]*delegateVS{}
	var roots []decoded[networking.VirtualService]
	for _, d := range l.virtuals {
		if !isDelegate(d) {
			roots = append(roots, d)
			continue
		}
		l.delegates[d.ref.Namespace+"/"+d.ref.Name] = l.delegateVS(d)
	}
	l.virtuals = roots
}

func (l *loader) delegateVS(d decoded[networking.VirtualService]) *delegateVS {
	out := &delegateVS{decoded: d, export: d.exportTo(d.spec("exportTo"), d.v.ExportTo, false)}
	if len(d.v.Gateways) > 0 {
		d.Errorf(d.spec().KeyOf("gateways"), "delegate virtual service must have no gateways specified")
	}
	if len(d.v.Tls) > 0 {
		d.Errorf(d.spec().KeyOf("tls"), "delegate virtual service must have no tls route specified")
	}
	if len(d.v.Tcp) > 0 {
		d.Errorf(d.spec().KeyOf("tcp"), "delegate virtual service must have no tcp route specified")
	}
	if len(d.v.Http) == 0 {
		d.Errorf(d.spec(), "http, tcp or tls must be provided in virtual service")
	}
	for i, r := range d.v.Http {
		at := d.spec("http", i)
		if r.Delegate != nil {
			d.Errorf(at.KeyOf("delegate"), "delegate HTTP route cannot contain delegate")
		}
		requests.Claims(&d.Checker, at, r, nil)
		out.rules = append(out.rules, httpSource{d, at, r, l.httpRule(d, at, r)})
	}
	return out
}

// unusedDelegates warns about rules that nothing leads to.
func (l *loader) unusedDelegates() {
	for _, name := range slices.Sorted(maps.Keys(l.delegates)) {
		if v := l.delegates[name]; !v.used {
			v.Warnf(v.spec("hosts"), "virtual service must have at least one host, unless another delegates to it, and none does: it has no effect")
		}
	}
}

// delegated returns the rules that a root rule stands for: those of its
// delegate, each narrowed to what the root rule matches.
func (l *loader) delegated(root httpSource) []*policy.HTTPRule {
	l.leans = true
	to := root.in.Delegate
	at := root.at.At("delegate")
	namespace := cmp.Or(to.Namespace, root.d.ref.Namespace)
	name := namespace + "/" + to.Name
	v := l.delegates[name]
	switch {
	case to.Name == "":
		root.d.Errorf(at, "delegate name cannot be empty")
		return nil
	case v == nil:
		root.d.Warnf(at, "delegate virtual service %s of %s/%s not found: the rule is left out",
			name, root.d.ref.Namespace, root.d.ref.Name)
		return nil
	}
	v.used = true
	if v.export.Limited && !slices.Contains(v.export.Namespaces, root.d.ref.Namespace) {
		root.d.Warnf(at, "delegate virtual service %s of %s/%s is not exported to %s: the rule is left out",
			name, root.d.ref.Namespace, root.d.ref.Name, root.d.ref.Namespace)
		return nil
	}
	var out []*policy.HTTPRule
	for _, leaf := range v.rules {
		l.merged += max(len(root.rule.Matches), 1) * max(len(leaf.rule.Matches), 1)
		if l.merged > model.MaxMatches {
			root.d.Errorf(at, "delegation makes more than %d matches of the rules", model.MaxMatches)
			return nil
		}
		matches, fit := mergeMatches(root.rule.Matches, leaf.rule.Matches)
		if !fit {
			leaf.d.Warnf(leaf.at, "the rule is left out of VirtualService %s/%s: it has a match that the delegating rule at %s does not cover",
				root.d.ref.Namespace, root.d.ref.Name, root.rule.Ref.Position())
			continue
		}
		rule := mergeRules(root, leaf)
		rule.Matches = matches
		leaf.d.AuthorityRewrite(leaf.at, rule)
		out = append(out, rule)
	}
	return out
}

// mergeRules fills what leaf leaves unset from root.
func mergeRules(root, leaf httpSource) *policy.HTTPRule {
	out, r := *leaf.rule, root.rule
	out.Name = joinNames(r.Name, out.Name)
	if leaf.in.Rewrite == nil {
		out.Rewrite = r.Rewrite
	}
	if leaf.in.Timeout == nil {
		out.Timeout = r.Timeout
	}
	if leaf.in.Retries == nil {
		out.Retries = r.Retries
	}
	if leaf.in.Fault == nil {
		out.Fault = r.Fault
	}
	if leaf.in.CorsPolicy == nil {
		out.CORS = r.CORS
	}
	if leaf.in.Headers == nil {
		out.Headers = r.Headers
	}
	rootMirrors, rootShare := setsMirrors(root.in)
	leafMirrors, leafShare := setsMirrors(leaf.in)
	switch {
	case !leafMirrors && rootMirrors:
		out.Mirrors = r.Mirrors
		if leafShare && root.in.Mirror != nil {
			out.Mirrors = []policy.Mirror{{Destination: r.Mirrors[0].Destination, Percent: mirrorShareOf(leaf.in)}}
		}
	case leaf.in.Mirror != nil && rootShare && !leafShare:
		out.Mirrors = []policy.Mirror{{Destination: out.Mirrors[0].Destination, Percent: mirrorShareOf(root.in)}}
	}
	return &out
}

// mirrorShareOf is the share that r gives to `mirror`.
func mirrorShareOf(r *networking.HTTPRoute) float64 {
	if p := r.MirrorPercentage; p != nil {
		return p.Value
	}
	//lint:ignore SA1019 deprecated, but Istio acts on it
	return float64(r.MirrorPercent.GetValue())
}

func joinNames(root, leaf string) string {
	if root == "" || leaf == "" {
		return root + leaf
	}
	return fmt.Sprintf("%s-%s", root, leaf)
}

// mergeMatches returns the matches that satisfy one of root and one of leaf.
// It does not fit when some match of leaf meets none of root, even when
// others do: so does Istio.
func mergeMatches(root, leaf []*policy.HTTPMatch) (out []*policy.HTTPMatch, fit bool) {
	if len(root) == 0 || len(leaf) == 0 {
		return append(slices.Clone(root), leaf...), true
	}
	for _, lm := range leaf {
		found := false
		for _, rm := range root {
			if !compatible(rm, lm) {
				continue
			}
			found = true
			out = append(out, mergeMatch(rm, lm))
		}
		if !found {
			return nil, false
		}
	}
	return out, true
}

// mergeMatch is leaf with what it leaves open filled from root.
func mergeMatch(root, leaf *policy.HTTPMatch) *policy.HTTPMatch {
	out := *leaf
	out.Name = joinNames(root.Name, leaf.Name)
	out.URI = cmp.Or(leaf.URI, root.URI)
	out.Scheme = cmp.Or(leaf.Scheme, root.Scheme)
	out.Method = cmp.Or(leaf.Method, root.Method)
	out.Authority = cmp.Or(leaf.Authority, root.Authority)
	out.Headers = mergeMaps(root.Headers, leaf.Headers)
	out.WithoutHeaders = mergeMaps(root.WithoutHeaders, leaf.WithoutHeaders)
	out.QueryParams = mergeMaps(root.QueryParams, leaf.QueryParams)
	out.SourceLabels = mergeMaps(root.SourceLabels, leaf.SourceLabels)
	out.Port = cmp.Or(leaf.Port, root.Port)
	out.SourceNamespace = cmp.Or(leaf.SourceNamespace, root.SourceNamespace)
	out.StatPrefix = cmp.Or(leaf.StatPrefix, root.StatPrefix)
	if len(out.Gateways) == 0 {
		out.Gateways = root.Gateways
	}
	return &out
}

func mergeMaps[V any](root, leaf map[string]V) map[string]V {
	if len(root) == 0 {
		return leaf
	}
	out := maps.Clone(root)
	maps.Copy(out, leaf)
	return out
}

// compatible says whether all that leaf asks for is within what root matches
// (istio.io/istio pilot/pkg/model, the conflicts of delegate matches).
func compatible(root, leaf *policy.HTTPMatch) bool {
	return within(root.URI, leaf.URI) && within(root.Scheme, leaf.Scheme) &&
		within(root.Method, leaf.Method) && within(root.Authority, leaf.Authority) &&
		allWithin(root.Headers, leaf.Headers) && allWithin(root.WithoutHeaders, leaf.WithoutHeaders) &&
		allWithin(root.QueryParams, leaf.QueryParams) &&
		root.IgnoreURICase == leaf.IgnoreURICase &&
		equalIfSet(root.Port, leaf.Port) && equalIfSet(root.SourceNamespace, leaf.SourceNamespace) &&
		sameLabels(root.SourceLabels, leaf.SourceLabels) &&
		(len(root.Gateways) == 0 || len(leaf.Gateways) == 0 || !slices.ContainsFunc(leaf.Gateways, func(g string) bool {
			return !slices.Contains(root.Gateways, g)
		}))
}

// within says whether leaf matches only what root does. What is not exact or
// a prefix is within nothing that is set.
func within(root, leaf *policy.StringMatch) bool {
	if root == nil || leaf == nil {
		return true
	}
	literal := leaf.Kind == policy.MatchExact || leaf.Kind == policy.MatchPrefix
	switch {
	case !literal || root.Value == "" || leaf.Value == "":
		return false
	case root.Kind == policy.MatchExact:
		return leaf.Kind == policy.MatchExact && leaf.Value == root.Value
	}
	return root.Kind == policy.MatchPrefix && strings.HasPrefix(leaf.Value, root.Value)
}

func allWithin(root, leaf map[string]policy.StringMatch) bool {
	for k, lm := range leaf {
		if rm, ok := root[k]; ok && !within(&rm, &lm) {
			return false
		}
	}
	return true
}

func sameLabels(root, leaf map[string]string) bool {
	for k, v := range leaf {
		if w, ok := root[k]; ok && v != w {
			return false
		}
	}
	return true
}

func equalIfSet[T comparable](a, b T) bool {
	var unset T
	return a == unset || b == unset || a == b
}
