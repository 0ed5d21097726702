// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"regexp"
	"slices"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// gatewayMatch translates a match. It always has a path, which is "/" when
// none is written.
func (o *HTTPRoute) gatewayMatch(at *strictyaml.Node, in *gateway.HTTPRouteMatch) *policy.HTTPMatch {
	out := &policy.HTTPMatch{URI: o.gatewayPath(at.At("path"), in.Path)}
	if m := in.Method; m != nil {
		if !slices.Contains(gatewayMethods, string(*m)) {
			o.Errorf(at.At("method"), "method %q is not one of %s%s", *m, strings.Join(gatewayMethods, ", "), strictyaml.DidYouMean(string(*m), gatewayMethods))
		}
		out.Method = &policy.StringMatch{Kind: policy.MatchExact, Value: string(*m)}
	}
	for i, h := range in.Headers {
		hn := at.At("headers", i)
		name := strings.ToLower(string(h.Name))
		switch _, dup := out.Headers[name]; {
		case !check.IsHeaderName(name):
			o.Errorf(hn.At("name"), "headers: header name %q is not a valid header name", h.Name)
			continue
		case dup:
			o.Warnf(hn, "headers: %q is listed before, which alone counts (names ignore case)", h.Name)
			continue
		}
		if out.Headers == nil {
			out.Headers = map[string]policy.StringMatch{}
		}
		out.Headers[name] = o.gatewayValue(hn, "headers", string(value(h.Type, gateway.HeaderMatchExact)), h.Value)
	}
	for i, q := range in.QueryParams {
		qn := at.At("queryParams", i)
		switch _, dup := out.QueryParams[string(q.Name)]; {
		case q.Name == "":
			o.Errorf(qn, "queryParams: name is required")
			continue
		case dup:
			o.Warnf(qn, "queryParams: %q is listed before, which alone counts", q.Name)
			continue
		}
		if out.QueryParams == nil {
			out.QueryParams = map[string]policy.StringMatch{}
		}
		out.QueryParams[string(q.Name)] = o.gatewayValue(qn, "queryParams", string(value(q.Type, gateway.QueryParamMatchExact)), q.Value)
	}
	return out
}

var gatewayMethods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

func (o *HTTPRoute) gatewayValue(at *strictyaml.Node, where, kind, v string) policy.StringMatch {
	if v == "" {
		o.Errorf(at.At("value"), "%s: value is required", where)
	}
	out := policy.StringMatch{Kind: policy.MatchExact, Value: v}
	switch kind {
	case "Exact":
	case "RegularExpression":
		out.Kind = policy.MatchRegex
		o.Regex(at.At("value"), where, v)
	default:
		o.Errorf(at.At("type"), "%s: unknown type %q%s", where, kind, strictyaml.DidYouMean(kind, []string{"Exact", "RegularExpression"}))
	}
	return out
}

// gatewayPath reads a path. Of a prefix a slash at the end is left out, as it
// has no meaning there.
func (o *HTTPRoute) gatewayPath(at *strictyaml.Node, in *gateway.HTTPPathMatch) *policy.StringMatch {
	out := &policy.StringMatch{Kind: policy.MatchPathPrefix, Value: "/"}
	if in == nil {
		return out
	}
	out.Value = value(in.Value, "/")
	kind := value(in.Type, gateway.PathMatchPathPrefix)
	switch kind {
	case gateway.PathMatchRegularExpression:
		out.Kind = policy.MatchRegex
		o.Regex(at.At("value"), "path", out.Value)
		return out
	case gateway.PathMatchExact:
		out.Kind = policy.MatchExact
	case gateway.PathMatchPathPrefix:
	default:
		o.Errorf(at.At("type"), "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']%s",
			strictyaml.DidYouMean(string(kind), []string{"Exact", "PathPrefix", "RegularExpression"}))
		return out
	}
	o.literalPath(at.At("value"), out.Value)
	if out.Kind == policy.MatchPathPrefix && len(out.Value) > 1 {
		out.Value = strings.TrimSuffix(out.Value, "/")
	}
	return out
}

var pathForm = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`)

// literalPath checks a path as the rules of HTTPPathMatch do.
func (o *HTTPRoute) literalPath(at *strictyaml.Node, path string) {
	const types = "when type one of ['Exact', 'PathPrefix']"
	if !strings.HasPrefix(path, "/") {
		o.Errorf(at, "value must be an absolute path and start with '/' %s", types)
		return
	}
	for _, s := range []string{"//", "/./", "/../", "%2f", "%2F", "#"} {
		if strings.Contains(path, s) {
			o.Errorf(at, "must not contain '%s' %s", s, types)
			return
		}
	}
	for _, s := range []string{"/..", "/."} {
		if strings.HasSuffix(path, s) {
			o.Errorf(at, "must not end with '%s' %s", s, types)
			return
		}
	}
	if !pathForm.MatchString(path) || len(path) > 1024 {
		o.Errorf(at, "must only contain valid characters (matching %s), at most 1024, for types ['Exact', 'PathPrefix']", pathForm)
	}
}
