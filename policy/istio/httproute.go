// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/requests"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// httpRule reads an entry of `http`. The authority that its headers set is
// left to authorityRewrite: a rule that delegates may give it away.
func (l *loader) httpRule(d decoded[networking.VirtualService], at *strictyaml.Node, r *networking.HTTPRoute) *policy.HTTPRule {
	out := &policy.HTTPRule{Ref: d.ref, Name: r.Name, Credentials: l.headerCredentials(d, r == d.v.Http[0])}
	out.Ref.Line, out.Ref.Column = at.Line, at.Col
	httpConflicts(d, at, r)
	for i, m := range r.Match {
		out.Matches = append(out.Matches, d.httpMatch(at.At("match", i), m))
	}
	out.Route = l.route(d, at.At("route"), r.Route)
	out.Redirect = d.redirect(at.At("redirect"), r)
	out.DirectResponse = d.directResponse(at.At("directResponse"), r.DirectResponse)
	out.Rewrite = d.rewrite(at.At("rewrite"), r.Rewrite)
	out.Headers = d.headers(at.At("headers"), r.Headers)
	if r.Timeout != nil && r.Timeout.AsDuration() == 0 {
		d.Errorf(at.At("timeout"), "timeout: 0s is not a timeout, and a cluster refuses it; leave it out, there is none then")
	} else {
		out.Timeout = d.Duration(at.At("timeout"), "timeout", r.Timeout)
	}
	out.Retries = d.retries(at.At("retries"), r.Retries)
	out.Fault = d.fault(at.At("fault"), r.Fault)
	out.Mirrors = l.mirrors(d, at, r)
	out.CORS = requests.CORS(&d.Checker, at, r.CorsPolicy)
	if r.Redirect == nil && r.DirectResponse == nil {
		return out
	}
	// As in Envoy, whose filter and router look at routes alone.
	for _, key := range []string{"corsPolicy", "mirror", "mirrors", "retries", "timeout"} {
		if n := at.Get(key); n != nil {
			d.Warnf(at.KeyOf(key), "%s acts on routes, and does nothing beside a redirect or directResponse", key)
		}
	}
	return out
}

// httpConflicts checks which actions of a rule go together.
func httpConflicts(d decoded[networking.VirtualService], at *strictyaml.Node, r *networking.HTTPRoute) {
	if r.Delegate != nil && !isDelegate(d) {
		const text = "root HTTP route %q must not specify %s"
		if r.Redirect != nil {
			d.Errorf(at.KeyOf("redirect"), text, r.Name, "redirect")
		}
		if len(r.Route) > 0 {
			d.Errorf(at.KeyOf("route"), text, r.Name, "route")
		}
		if r.DirectResponse != nil {
			d.Errorf(at.KeyOf("directResponse"), text, r.Name, "direct_response")
		}
		return
	}
	both := func(field, a, b string) {
		d.Errorf(at.KeyOf(field), "HTTP route cannot contain both %s and %s", a, b)
	}
	action := ""
	switch {
	case r.Redirect != nil:
		action = "redirect"
		if r.DirectResponse != nil {
			both("directResponse", "direct_response", action)
		}
	case r.DirectResponse != nil:
		action = "direct_response"
	case len(r.Route) == 0:
		d.Errorf(at, "HTTP route, redirect or direct_response is required")
	}
	if action == "" {
		return
	}
	if len(r.Route) > 0 {
		both("route", "route", action)
	}
	if r.Fault != nil {
		both("fault", "fault", action)
	}
	if r.Rewrite != nil {
		both("rewrite", "rewrite", action)
	}
}

// headers translates header operations. The maps of the source have no order
// of their own; names are sorted, so that equal configuration is equal.
func (o *object) headers(at *strictyaml.Node, h *networking.Headers) *policy.Headers {
	if h == nil {
		return nil
	}
	return &policy.Headers{
		Request:  o.headerOps(at.At("request"), h.Request, true),
		Response: o.headerOps(at.At("response"), h.Response, false),
	}
}

func (o *object) headerOps(at *strictyaml.Node, h *networking.Headers_HeaderOperations, request bool) policy.HeaderOps {
	var out policy.HeaderOps
	if h == nil {
		return out
	}
	out.Set = o.headerValues(at.At("set"), h.Set, request)
	out.Add = o.headerValues(at.At("add"), h.Add, request)
	for i, name := range h.Remove {
		n := at.At("remove", i)
		switch {
		case check.IsInternalHeader(name):
			o.InternalHeader(n, name)
		case name == "":
			o.Errorf(n, "header name cannot be empty")
		case !check.IsHeaderName(name):
			o.Errorf(n, "invalid header name %q", name)
		default:
			out.Remove = append(out.Remove, name)
		}
	}
	return out
}

func (o *object) headerValues(at *strictyaml.Node, in map[string]string, request bool) []policy.Header {
	if len(in) == 0 {
		return nil
	}
	var out []policy.Header
	x := strictyaml.EntriesOf(at)
	for _, key := range slices.Sorted(maps.Keys(in)) {
		name, value := key, in[key]
		switch {
		case request && check.IsAuthority(name):
			name = "Host"
		case check.IsInternalHeader(name):
			o.InternalHeader(x.KeyOf(key), name)
			continue
		case name == "":
			o.Errorf(x.KeyOf(key), "header name cannot be empty")
			continue
		case !check.IsHeaderName(name):
			o.Errorf(x.KeyOf(key), "invalid header name %q", name)
			continue
		case check.IsFramingHeader(name):
			o.Errorf(x.KeyOf(key), "header %q frames messages and is egressd's to write, not a rule's", name)
			continue
		}
		plain, err := headerValue(value)
		if err != nil {
			o.Errorf(x.At(key), "header value configuration %q: %s", value, err)
			continue
		}
		out = append(out, policy.Header{Name: name, Value: plain})
	}
	return out
}

// headerValue reads Envoy's header format: "%%" is a percent sign, and
// %COMMAND% stands for something of the connection, which is not done yet.
func headerValue(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", fmt.Errorf("control characters are not allowed")
		case c != '%':
			b.WriteByte(c)
		case i+1 < len(s) && s[i+1] == '%':
			b.WriteByte('%')
			i++
		case strings.Contains(s[i+1:], "%"):
			return "", fmt.Errorf("format strings such as %%DOWNSTREAM_REMOTE_ADDRESS%% are not supported yet (write %%%% for a percent sign)")
		default:
			return "", fmt.Errorf("invalid header configuration. Un-escaped %% (write %%%% for a percent sign)")
		}
	}
	return b.String(), nil
}
