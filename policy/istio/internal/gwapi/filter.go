// SPDX-License-Identifier: Apache-2.0

package gwapi

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	gateway "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// filterFields are the fields of a filter by its type. Those with a pointer
// that is not set have no such field.
func filterFields(f *gateway.HTTPRouteFilter) map[gateway.HTTPRouteFilterType]filterField {
	return map[gateway.HTTPRouteFilterType]filterField{
		gateway.HTTPRouteFilterRequestHeaderModifier:  {"requestHeaderModifier", f.RequestHeaderModifier != nil},
		gateway.HTTPRouteFilterResponseHeaderModifier: {"responseHeaderModifier", f.ResponseHeaderModifier != nil},
		gateway.HTTPRouteFilterRequestRedirect:        {"requestRedirect", f.RequestRedirect != nil},
		gateway.HTTPRouteFilterURLRewrite:             {"urlRewrite", f.URLRewrite != nil},
		gateway.HTTPRouteFilterRequestMirror:          {"requestMirror", f.RequestMirror != nil},
		gateway.HTTPRouteFilterCORS:                   {"cors", f.CORS != nil},
		gateway.HTTPRouteFilterExternalAuth:           {"externalAuth", f.ExternalAuth != nil},
		gateway.HTTPRouteFilterExtensionRef:           {"extensionRef", f.ExtensionRef != nil},
	}
}

type filterField struct {
	name string
	set  bool
}

// typed checks that a filter has the field of its type and no other.
func (o *HTTPRoute) typed(at *strictyaml.Node, f *gateway.HTTPRouteFilter) bool {
	fields := filterFields(f)
	if _, ok := fields[f.Type]; !ok {
		var known []string
		for t := range fields {
			known = append(known, string(t))
		}
		slices.Sort(known)
		o.Errorf(at.At("type"), "unsupported filter type %q%s", f.Type, strictyaml.DidYouMean(string(f.Type), known))
		return false
	}
	ok := true
	for t, field := range fields {
		switch {
		case t == f.Type && !field.set:
			o.Errorf(at, "filter.%s must be specified for %s filter.type", field.name, t)
			ok = false
		case t != f.Type && field.set:
			o.Errorf(at.KeyOf(field.name), "filter.%s must be nil if the filter.type is not %s", field.name, t)
			ok = false
		}
	}
	return ok
}

// filters translates the filters of a rule.
func (l *translator) filters(r *gatewayRoute, at *strictyaml.Node, in *gateway.HTTPRouteRule, out *policy.HTTPRule) {
	seen := map[gateway.HTTPRouteFilterType]bool{}
	for i := range in.Filters {
		f := &in.Filters[i]
		fn := at.At("filters", i)
		if !r.typed(fn, f) {
			continue
		}
		if seen[f.Type] && f.Type != gateway.HTTPRouteFilterRequestMirror {
			r.Errorf(fn, "%s filter cannot be repeated", f.Type)
			continue
		}
		seen[f.Type] = true
		switch f.Type {
		case gateway.HTTPRouteFilterRequestHeaderModifier, gateway.HTTPRouteFilterResponseHeaderModifier:
			if out.Headers == nil {
				out.Headers = &policy.Headers{}
			}
			r.headerFilter(fn, f, out.Headers)
		case gateway.HTTPRouteFilterRequestRedirect:
			out.Redirect = r.redirectFilter(fn.At("requestRedirect"), f.RequestRedirect, in)
		case gateway.HTTPRouteFilterURLRewrite:
			out.Rewrite = r.rewriteFilter(fn.At("urlRewrite"), f.URLRewrite, in)
		case gateway.HTTPRouteFilterRequestMirror:
			out.Mirrors = append(out.Mirrors, l.mirrorFilter(&r.HTTPRoute, fn, f.RequestMirror))
		case gateway.HTTPRouteFilterCORS:
			out.CORS = r.corsFilter(fn, f.CORS)
		default:
			r.Unsupported(fn.At("type"), "the filter "+string(f.Type))
		}
	}
	if seen[gateway.HTTPRouteFilterRequestRedirect] && seen[gateway.HTTPRouteFilterURLRewrite] {
		r.Errorf(at.At("filters"), "May specify either httpRouteFilterRequestRedirect or httpRouteFilterRequestRewrite, but not both")
	}
}

// backendFilters translates the filters of one backend.
func (o *HTTPRoute) backendFilters(at *strictyaml.Node, filters []gateway.HTTPRouteFilter) *policy.Headers {
	var out *policy.Headers
	seen := map[gateway.HTTPRouteFilterType]bool{}
	for i := range filters {
		f := &filters[i]
		fn := at.At("filters", i)
		if !o.typed(fn, f) {
			continue
		}
		if seen[f.Type] {
			o.Errorf(fn, "%s filter cannot be repeated", f.Type)
			continue
		}
		seen[f.Type] = true
		switch f.Type {
		case gateway.HTTPRouteFilterRequestHeaderModifier, gateway.HTTPRouteFilterResponseHeaderModifier:
			if out == nil {
				out = &policy.Headers{}
			}
			o.headerFilter(fn, f, out)
		default:
			o.Unsupported(fn.At("type"), "the filter "+string(f.Type)+" of a backend")
		}
	}
	return out
}

func (o *HTTPRoute) headerFilter(at *strictyaml.Node, f *gateway.HTTPRouteFilter, out *policy.Headers) {
	if f.Type == gateway.HTTPRouteFilterRequestHeaderModifier {
		out.Request = o.headerChanges(at.At("requestHeaderModifier"), f.RequestHeaderModifier, true)
		return
	}
	out.Response = o.headerChanges(at.At("responseHeaderModifier"), f.ResponseHeaderModifier, false)
}

func (o *HTTPRoute) headerChanges(at *strictyaml.Node, f *gateway.HTTPHeaderFilter, request bool) policy.HeaderOps {
	var out policy.HeaderOps
	seen := map[string]bool{}
	good := func(n *strictyaml.Node, name string, host bool) bool {
		lower := strings.ToLower(name)
		switch {
		case check.IsInternalHeader(name) && !(host && lower == "host"):
			o.InternalHeader(n, name)
			return false
		case !check.IsHeaderName(name):
			o.Errorf(n, "invalid header name %q", name)
			return false
		case seen[lower]:
			o.Errorf(n, "header %q: only one action for a header name is permitted (names ignore case)", name)
			return false
		}
		seen[lower] = true
		return true
	}
	values := func(list string, in []gateway.HTTPHeader) []policy.Header {
		var out []policy.Header
		for i, h := range in {
			n := at.At(list, i)
			name := string(h.Name)
			if !good(n.At("name"), name, request) {
				continue
			}
			if check.IsFramingHeader(name) {
				o.Errorf(n.At("name"), "header %q frames messages and is egressd's to write, not a rule's", name)
				continue
			}
			if h.Value == "" || strings.ContainsFunc(h.Value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				o.Errorf(n.At("value"), "header %q: the value is empty or has control characters", name)
			}
			if check.IsAuthority(name) {
				name = "Host"
			}
			out = append(out, policy.Header{Name: name, Value: h.Value})
		}
		return out
	}
	out.Set, out.Add = values("set", f.Set), values("add", f.Add)
	for i, name := range f.Remove {
		if good(at.At("remove", i), name, false) {
			out.Remove = append(out.Remove, name)
		}
	}
	return out
}

// replaced reads a path modifier: the whole path, or what takes the place of
// the prefix. It needs the one match that the rule must have.
func (o *HTTPRoute) replaced(at *strictyaml.Node, p *gateway.HTTPPathModifier, filter string, rule *gateway.HTTPRouteRule) (full, prefix string) {
	if p == nil {
		return "", ""
	}
	isFull, isPrefix := p.Type == gateway.FullPathHTTPPathModifier, p.Type == gateway.PrefixMatchHTTPPathModifier
	switch {
	case !isFull && !isPrefix:
		types := []string{string(gateway.FullPathHTTPPathModifier), string(gateway.PrefixMatchHTTPPathModifier)}
		o.Errorf(at.At("type"), "path type %q is not one of %s%s", p.Type, strings.Join(types, ", "), strictyaml.DidYouMean(string(p.Type), types))
	case isFull && p.ReplaceFullPath == nil:
		o.Errorf(at, "replaceFullPath must be specified when type is set to 'ReplaceFullPath'")
	case isPrefix && p.ReplacePrefixMatch == nil:
		o.Errorf(at, "replacePrefixMatch must be specified when type is set to 'ReplacePrefixMatch'")
	case isFull && p.ReplacePrefixMatch != nil:
		o.Errorf(at.KeyOf("replacePrefixMatch"), "type must be 'ReplacePrefixMatch' when replacePrefixMatch is set")
	case isPrefix && p.ReplaceFullPath != nil:
		o.Errorf(at.KeyOf("replaceFullPath"), "type must be 'ReplaceFullPath' when replaceFullPath is set")
	case isPrefix && !onePrefix(rule):
		o.Errorf(at, "When using %s filter with path.replacePrefixMatch, exactly one PathPrefix match must be specified", filter)
	case isFull:
		full = *p.ReplaceFullPath
	default:
		prefix = *p.ReplacePrefixMatch
	}
	// No path at all is the root, in both.
	if isFull && full == "" {
		full = "/"
	}
	if isPrefix && prefix == "" {
		prefix = "/"
	}
	for _, s := range []string{full, prefix} {
		if s != "" && (s[0] != '/' || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c >= 0x7f })) {
			o.Errorf(at, "path %q must start with '/' and have no spaces, control characters or characters beyond ASCII", s)
		}
	}
	return full, prefix
}

// onePrefix says whether a rule has one match on a prefix, which it has when
// it says nothing of matches.
func onePrefix(rule *gateway.HTTPRouteRule) bool {
	if len(rule.Matches) == 0 {
		return true
	}
	p := rule.Matches[0].Path
	return len(rule.Matches) == 1 && (p == nil || value(p.Type, gateway.PathMatchPathPrefix) == gateway.PathMatchPathPrefix)
}

func (o *HTTPRoute) preciseHost(at *strictyaml.Node, h *gateway.PreciseHostname) string {
	if h == nil {
		return ""
	}
	out, err := check.FQDN(string(*h))
	if err != nil {
		o.Errorf(at.At("hostname"), "invalid hostname: %s", err)
	}
	return out
}

func (o *HTTPRoute) redirectFilter(at *strictyaml.Node, f *gateway.HTTPRequestRedirectFilter, rule *gateway.HTTPRouteRule) *policy.Redirect {
	out := &policy.Redirect{Authority: o.preciseHost(at, f.Hostname), Scheme: value(f.Scheme, ""), Code: value(f.StatusCode, http.StatusFound)}
	out.URI, out.PrefixRewrite = o.replaced(at.At("path"), f.Path, "RequestRedirect", rule)
	switch out.Code {
	case 301, 302, 303, 307, 308:
	default:
		o.Errorf(at.At("statusCode"), "statusCode %d is not one of 301, 302, 303, 307, 308", out.Code)
	}
	switch {
	case f.Scheme != nil && out.Scheme != "http" && out.Scheme != "https":
		o.Errorf(at.At("scheme"), `scheme %q must be "http" or "https"`, out.Scheme)
	case f.Port != nil && (*f.Port < 1 || *f.Port > 65535):
		o.Errorf(at.At("port"), "port number %d must be in the range 1..65535", *f.Port)
	case f.Port != nil:
		out.Port = uint16(*f.Port)
	case out.Scheme == "http":
		out.Port = 80
	case out.Scheme == "https":
		out.Port = 443
	default:
		out.DerivePort = "FROM_REQUEST_PORT"
	}
	return out
}

func (o *HTTPRoute) rewriteFilter(at *strictyaml.Node, f *gateway.HTTPURLRewriteFilter, rule *gateway.HTTPRouteRule) *policy.Rewrite {
	out := &policy.Rewrite{Authority: o.preciseHost(at, f.Hostname)}
	full, prefix := o.replaced(at.At("path"), f.Path, "URLRewrite", rule)
	out.URI = prefix
	if full != "" {
		out.RegexMatch, out.RegexRewrite = `(?s)^.*$`, strings.ReplaceAll(full, `\`, `\\`)
	}
	if *out == (policy.Rewrite{}) {
		return nil
	}
	return out
}

func (l *translator) mirrorFilter(o *HTTPRoute, at *strictyaml.Node, f *gateway.HTTPRequestMirrorFilter) policy.Mirror {
	at = at.At("requestMirror")
	out := policy.Mirror{Destination: l.backend(o.route(), at.At("backendRef"), f.BackendRef), Percent: 100}
	if p := f.Percent; p != nil {
		out.Percent = o.MirrorShare(at.At("percent"), "percent", float64(*p))
	}
	if x := f.Fraction; x != nil {
		of := value(x.Denominator, 100)
		switch {
		case f.Percent != nil:
			o.Errorf(at.KeyOf("fraction"), "Only one of percent or fraction may be specified in HTTPRequestMirrorFilter")
		case of < 1 || x.Numerator < 0 || x.Numerator > of:
			o.Errorf(at.At("fraction"), "numerator must be less than or equal to denominator, and both positive")
		default:
			out.Percent = 100 * float64(x.Numerator) / float64(of)
		}
	}
	return out
}

// anyOrigin is what an asterisk alone stands for: everything that is an origin
// (RFC 6454; istio pilot/pkg/config/kube/gateway createCorsFilter).
const anyOrigin = `[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s?#]+`

// corsFilter reads a CORS filter. An asterisk stands for anything in the host
// of an origin, and alone for every origin. A preflight of another origin is
// never forwarded.
func (o *HTTPRoute) corsFilter(at *strictyaml.Node, f *gateway.HTTPCORSFilter) *policy.CORS {
	at = at.At("cors")
	out := &policy.CORS{MaxAge: new(5 * time.Second), AllowCredentials: f.AllowCredentials, IgnorePreflights: true}
	for i, s := range f.AllowOrigins {
		m := policy.StringMatch{Kind: policy.MatchExact, Value: string(s)}
		if s == "" {
			o.Errorf(at.At("allowOrigins", i), "an origin is a scheme and a host, with a port or without")
		}
		switch {
		case s == "*":
			m = policy.StringMatch{Kind: policy.MatchRegex, Value: anyOrigin}
		case strings.Contains(string(s), "*"):
			m = policy.StringMatch{Kind: policy.MatchRegex, Value: strings.ReplaceAll(regexp.QuoteMeta(string(s)), `\*`, ".*")}
		}
		out.AllowOrigins = append(out.AllowOrigins, m)
	}
	for i, m := range f.AllowMethods {
		if !slices.Contains(check.CORSMethods, string(m)) {
			o.Errorf(at.At("allowMethods", i), "%q is not a supported HTTP method%s", m, strictyaml.DidYouMean(string(m), check.CORSMethods))
		}
		out.AllowMethods = append(out.AllowMethods, string(m))
	}
	for _, h := range f.AllowHeaders {
		out.AllowHeaders = append(out.AllowHeaders, string(h))
	}
	for _, h := range f.ExposeHeaders {
		out.ExposeHeaders = append(out.ExposeHeaders, string(h))
	}
	o.CORSHeaders(at.At("allowHeaders"), out.AllowHeaders)
	o.CORSHeaders(at.At("exposeHeaders"), out.ExposeHeaders)
	if f.MaxAge != 0 {
		out.MaxAge = new(time.Duration(f.MaxAge) * time.Second)
	}
	if f.MaxAge < 0 {
		o.Errorf(at.At("maxAge"), "maxAge %d must be 1 or more", f.MaxAge)
	}
	return out
}
