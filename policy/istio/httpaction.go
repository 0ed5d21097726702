// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/model"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

func (o *object) redirect(at *strictyaml.Node, rule *networking.HTTPRoute) *policy.Redirect {
	r := rule.Redirect
	if r == nil {
		return nil
	}
	out := &policy.Redirect{
		URI: r.Uri, PrefixRewrite: r.PrefixRewrite, Authority: r.Authority, Scheme: r.Scheme, Code: http.StatusMovedPermanently,
	}
	if r.RedirectCode != 0 {
		out.Code = int(r.RedirectCode)
	}
	switch out.Code {
	case 301, 302, 303, 307, 308:
	default:
		if out.Code < 300 || out.Code > 399 {
			o.Errorf(at.At("redirectCode"), "%d is not a valid redirect code, must be 3xx", out.Code)
			break
		}
		o.Errorf(at.At("redirectCode"), "redirect code %d is not one of 301, 302, 303, 307, 308", out.Code)
	}
	switch p := r.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.Port = o.Port(at.At("port"), "redirect port", p.Port)
	case *networking.HTTPRedirect_DerivePort:
		out.DerivePort = p.DerivePort.String()
	}
	if strings.Contains(r.Uri, "%PREFIX()%") {
		o.Warnf(at.At("uri"), "%s stands for the prefix in what is made of HTTPRoutes alone, and is written as it is here; use prefixRewrite", "%PREFIX()%")
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		o.Errorf(at.At("scheme"), `invalid redirect scheme, must be "http" or "https"`)
	}
	switch {
	case r.Uri != "" && r.PrefixRewrite != "":
		o.Errorf(at, "redirect cannot contain both uri and prefixRewrite")
	case r.PrefixRewrite != "" && hasOtherURI(rule):
		o.Errorf(at.At("prefixRewrite"), "redirect prefixRewrite needs matches with a uri prefix")
	case r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.RedirectPort == nil && r.Scheme == "":
		o.Errorf(at, "redirect must specify URI, authority, scheme, or port")
	}
	return out
}

func isPrefixMatch(m *networking.HTTPMatchRequest) bool {
	_, ok := m.GetUri().GetMatchType().(*networking.StringMatch_Prefix)
	return ok
}

func hasOtherURI(rule *networking.HTTPRoute) bool {
	return slices.ContainsFunc(rule.Match, func(m *networking.HTTPMatchRequest) bool {
		return m.GetUri() != nil && !isPrefixMatch(m)
	})
}

func (o *object) directResponse(at *strictyaml.Node, r *networking.HTTPDirectResponse) *policy.DirectResponse {
	if r == nil {
		return nil
	}
	if r.Status < 200 || r.Status > 599 {
		o.Errorf(at.At("status"), "HTTP status %d is not in range 200-599", r.Status)
	}
	out := &policy.DirectResponse{Status: int(r.Status)}
	switch b := r.Body.GetSpecifier().(type) {
	case *networking.HTTPBody_String_:
		out.Body = []byte(b.String_)
	case *networking.HTTPBody_Bytes:
		out.Body = b.Bytes
	}
	switch n := len(out.Body); {
	case n > 1<<20:
		o.Errorf(at.At("body"), "large direct_responses may impact control plane performance, must be less than 1MB (it has %d bytes)", n)
	case n > 100<<10:
		o.Warnf(at.At("body"), "large direct_responses may impact control plane performance (it has %d bytes)", n)
	}
	return out
}

func (o *object) rewrite(at *strictyaml.Node, r *networking.HTTPRewrite) *policy.Rewrite {
	if r == nil {
		return nil
	}
	out := &policy.Rewrite{URI: r.Uri, Authority: r.Authority}
	if x := r.UriRegexRewrite; x != nil {
		if r.Uri != "" {
			o.Errorf(at, "rewrite may only contain one of URI or UriRegexRewrite")
		}
		if x.Match == "" || x.Rewrite == "" {
			o.Errorf(at.At("uriRegexRewrite"), "UriRegexRewrite requires both Rewrite and Match fields to be specified")
		} else {
			o.Regex(at.At("uriRegexRewrite", "match"), "HTTPRewrite.UriRegexRewrite.Match", x.Match)
		}
		out.RegexMatch, out.RegexRewrite = x.Match, x.Rewrite
	} else if r.Uri == "" && r.Authority == "" {
		o.Errorf(at, "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified")
	}
	return out
}

func (o *object) retries(at *strictyaml.Node, r *networking.HTTPRetry) *policy.Retries {
	if r == nil {
		return nil
	}
	if r.Attempts < 0 {
		o.Errorf(at.At("attempts"), "attempts cannot be negative")
	}
	if r.Attempts == 0 && (r.PerTryTimeout != nil || r.RetryOn != "" || r.RetryRemoteLocalities != nil) {
		o.Errorf(at, "http retry policy configured when attempts are set to 0 (disabled)")
	}
	out := &policy.Retries{
		Attempts:      int(max(r.Attempts, 0)),
		PerTryTimeout: o.Duration(at.At("perTryTimeout"), "perTryTimeout", r.PerTryTimeout),
		Backoff:       o.Duration(at.At("backoff"), "backoff", r.Backoff),
	}
	out.Remote = r.RetryRemoteLocalities.GetValue()
	if v := r.RetryIgnorePreviousHosts; v != nil {
		out.AnyHost = !v.Value
	}
	if r.RetryOn == "" {
		return out
	}
	for token := range strings.SplitSeq(r.RetryOn, ",") {
		if code, err := strconv.Atoi(token); err == nil && http.StatusText(code) != "" {
			out.Codes = append(out.Codes, code)
			continue
		}
		if !slices.Contains(retryTokens, token) {
			o.Errorf(at.At("retryOn"), "%q is not a valid retryOn policy%s", token, strictyaml.DidYouMean(token, retryTokens))
			continue
		}
		switch token {
		case "retriable-headers":
			o.Warnf(at.At("retryOn"), "retryOn %s never holds: Istio has no field for the headers that it asks for", token)
		case "http3-post-connect-failure":
			o.Warnf(at.At("retryOn"), "retryOn %s never holds: no request leaves in HTTP/3", token)
		}
		out.On = append(out.On, token)
	}
	if len(out.Codes) > 0 && !slices.Contains(out.On, model.RetriableCodes) {
		out.On = append(out.On, model.RetriableCodes)
	}
	return out
}

// retryTokens are the conditions that Envoy knows (x-envoy-retry-on and
// x-envoy-retry-grpc-on).
var retryTokens = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
	model.RetriableCodes, "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

func (o *object) fault(at *strictyaml.Node, f *networking.HTTPFaultInjection) *policy.Fault {
	if f == nil {
		return nil
	}
	if f.Abort == nil && f.Delay == nil {
		o.Errorf(at, "HTTP fault injection must have an abort and/or a delay")
	}
	out := &policy.Fault{AbortGRPC: -1}
	o.faultDelay(at.At("delay"), f.Delay, out)
	o.faultAbort(at.At("abort"), f.Abort, out)
	return out
}

func (o *object) faultDelay(at *strictyaml.Node, d *networking.HTTPFaultInjection_Delay, out *policy.Fault) {
	if d == nil {
		return
	}
	switch t := d.HttpDelayType.(type) {
	case *networking.HTTPFaultInjection_Delay_FixedDelay:
		out.Delay = o.Duration(at.At("fixedDelay"), "fixedDelay", t.FixedDelay)
	case *networking.HTTPFaultInjection_Delay_ExponentialDelay:
		o.Errorf(at.At("exponentialDelay"), "exponentialDelay not supported yet")
	default:
		o.Warnf(at, "delay configured, but fixedDelay not set: it injects nothing")
		if d.Percentage != nil {
			o.percent(at, "delay", d.Percentage)
		}
		return
	}
	//lint:ignore SA1019 deprecated, but Istio acts on it
	percent := d.Percent
	if percent != 0 && d.Percentage == nil {
		o.Warnf(at.KeyOf("percent"), "percent is deprecated; use percentage.value")
		if percent < 0 || percent > 100 {
			o.Errorf(at.At("percent"), "percent %d is not in range 0..100", percent)
		}
		out.DelayPercent = float64(percent)
		return
	}
	out.DelayPercent = o.percent(at, "delay", d.Percentage)
}

func (o *object) faultAbort(at *strictyaml.Node, a *networking.HTTPFaultInjection_Abort, out *policy.Fault) {
	if a == nil {
		return
	}
	switch t := a.ErrorType.(type) {
	case *networking.HTTPFaultInjection_Abort_HttpStatus:
		if t.HttpStatus < 200 || t.HttpStatus > 599 {
			o.Errorf(at.At("httpStatus"), "HTTP status %d is not in range 200-599", t.HttpStatus)
		}
		out.AbortStatus = int(t.HttpStatus)
	case *networking.HTTPFaultInjection_Abort_GrpcStatus:
		out.AbortGRPC = slices.Index(grpcStatus, t.GrpcStatus)
		if out.AbortGRPC < 0 {
			o.Errorf(at.At("grpcStatus"), "gRPC status %q is not supported%s; see https://github.com/grpc/grpc/blob/master/doc/statuscodes.md", t.GrpcStatus, strictyaml.DidYouMean(t.GrpcStatus, grpcStatus))
		}
	case *networking.HTTPFaultInjection_Abort_Http2Error:
		o.Errorf(at.At("http2Error"), "HTTP/2 abort fault injection not supported yet")
	default:
		o.Warnf(at, "abort configured, but error type not set: it injects nothing")
		if a.Percentage != nil {
			o.percent(at, "abort", a.Percentage)
		}
		return
	}
	out.AbortPercent = o.percent(at, "abort", a.Percentage)
}

// percent reads a fault's percentage. Without one nothing is injected: that
// is what Istio does, and it surprises everybody once.
func (o *object) percent(at *strictyaml.Node, what string, p *networking.Percent) float64 {
	if p == nil {
		o.Warnf(at, "%s without percentage: it injects nothing (0%%)", what)
		return 0
	}
	if p.Value != 0 && (p.Value < 0.0001 || p.Value > 100) {
		o.Errorf(at.At("percentage", "value"), "percentage %v is neither 0.0, nor in range [0.0001, 100.0]", p.Value)
	}
	return p.Value
}

// grpcStatus are the gRPC status codes by number.
var grpcStatus = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}
