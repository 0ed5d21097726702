// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"regexp"
	"slices"
	"strings"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
)

// gatewayMatch translates a match. It always has a path, which is "/" when
// none is written.
func (o *object) gatewayMatch(at *node, in *gateway.HTTPRouteMatch) *policy.HTTPMatch {
	out := &policy.HTTPMatch{URI: o.gatewayPath(at.at("path"), in.Path)}
	if m := in.Method; m != nil {
		if !slices.Contains(gatewayMethods, string(*m)) {
			o.errorf(at.at("method"), "method %q is not one of %s%s", *m, strings.Join(gatewayMethods, ", "), didYouMean(string(*m), gatewayMethods))
		}
		out.Method = &policy.StringMatch{Kind: policy.MatchExact, Value: string(*m)}
	}
	for i, h := range in.Headers {
		hn := at.at("headers", i)
		name := strings.ToLower(string(h.Name))
		switch _, dup := out.Headers[name]; {
		case !isHeaderName(name):
			o.errorf(hn.at("name"), "headers: header name %q is not a valid header name", h.Name)
			continue
		case dup:
			o.warnf(hn, "headers: %q is listed before, which alone counts (names ignore case)", h.Name)
			continue
		}
		if out.Headers == nil {
			out.Headers = map[string]policy.StringMatch{}
		}
		out.Headers[name] = o.gatewayValue(hn, "headers", string(value(h.Type, gateway.HeaderMatchExact)), h.Value)
	}
	for i, q := range in.QueryParams {
		qn := at.at("queryParams", i)
		switch _, dup := out.QueryParams[string(q.Name)]; {
		case q.Name == "":
			o.errorf(qn, "queryParams: name is required")
			continue
		case dup:
			o.warnf(qn, "queryParams: %q is listed before, which alone counts", q.Name)
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

func (o *object) gatewayValue(at *node, where, kind, v string) policy.StringMatch {
	if v == "" {
		o.errorf(at.at("value"), "%s: value is required", where)
	}
	out := policy.StringMatch{Kind: policy.MatchExact, Value: v}
	switch kind {
	case "Exact":
	case "RegularExpression":
		out.Kind = policy.MatchRegex
		o.regex(at.at("value"), where, v)
	default:
		o.errorf(at.at("type"), "%s: unknown type %q%s", where, kind, didYouMean(kind, []string{"Exact", "RegularExpression"}))
	}
	return out
}

// gatewayPath reads a path. Of a prefix a slash at the end is left out, as it
// has no meaning there.
func (o *object) gatewayPath(at *node, in *gateway.HTTPPathMatch) *policy.StringMatch {
	out := &policy.StringMatch{Kind: policy.MatchPathPrefix, Value: "/"}
	if in == nil {
		return out
	}
	out.Value = value(in.Value, "/")
	kind := value(in.Type, gateway.PathMatchPathPrefix)
	switch kind {
	case gateway.PathMatchRegularExpression:
		out.Kind = policy.MatchRegex
		o.regex(at.at("value"), "path", out.Value)
		return out
	case gateway.PathMatchExact:
		out.Kind = policy.MatchExact
	case gateway.PathMatchPathPrefix:
	default:
		o.errorf(at.at("type"), "type must be one of ['Exact', 'PathPrefix', 'RegularExpression']%s",
			didYouMean(string(kind), []string{"Exact", "PathPrefix", "RegularExpression"}))
		return out
	}
	o.literalPath(at.at("value"), out.Value)
	if out.Kind == policy.MatchPathPrefix && len(out.Value) > 1 {
		out.Value = strings.TrimSuffix(out.Value, "/")
	}
	return out
}

var pathForm = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|[%][0-9a-fA-F]{2})+$`)

// literalPath checks a path as the rules of HTTPPathMatch do.
func (o *object) literalPath(at *node, path string) {
	const types = "when type one of ['Exact', 'PathPrefix']"
	if !strings.HasPrefix(path, "/") {
		o.errorf(at, "value must be an absolute path and start with '/' %s", types)
		return
	}
	for _, s := range []string{"//", "/./", "/../", "%2f", "%2F", "#"} {
		if strings.Contains(path, s) {
			o.errorf(at, "must not contain '%s' %s", s, types)
			return
		}
	}
	for _, s := range []string{"/..", "/."} {
		if strings.HasSuffix(path, s) {
			o.errorf(at, "must not end with '%s' %s", s, types)
			return
		}
	}
	if !pathForm.MatchString(path) || len(path) > 1024 {
		o.errorf(at, "must only contain valid characters (matching %s), at most 1024, for types ['Exact', 'PathPrefix']", pathForm)
	}
}
