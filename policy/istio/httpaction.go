// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

func (o *object) redirect(at *node, rule *networking.HTTPRoute) *policy.Redirect {
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
			o.errorf(at.at("redirectCode"), "%d is not a valid redirect code, must be 3xx", out.Code)
			break
		}
		o.errorf(at.at("redirectCode"), "redirect code %d is not one of 301, 302, 303, 307, 308", out.Code)
	}
	switch p := r.RedirectPort.(type) {
	case *networking.HTTPRedirect_Port:
		out.Port = o.port(at.at("port"), "redirect port", p.Port)
	case *networking.HTTPRedirect_DerivePort:
		out.DerivePort = p.DerivePort.String()
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		o.errorf(at.at("scheme"), `invalid redirect scheme, must be "http" or "https"`)
	}
	switch {
	case r.Uri != "" && r.PrefixRewrite != "":
		o.errorf(at, "redirect cannot contain both uri and prefixRewrite")
	case r.PrefixRewrite != "" && hasOtherURI(rule):
		o.errorf(at.at("prefixRewrite"), "redirect prefixRewrite needs matches with a uri prefix")
	case r.Uri == "" && r.PrefixRewrite == "" && r.Authority == "" && r.RedirectPort == nil && r.Scheme == "":
		o.errorf(at, "redirect must specify URI, authority, scheme, or port")
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

func (o *object) directResponse(at *node, r *networking.HTTPDirectResponse) *policy.DirectResponse {
	if r == nil {
		return nil
	}
	if r.Status < 200 || r.Status > 599 {
		o.errorf(at.at("status"), "HTTP status %d is not in range 200-599", r.Status)
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
		o.errorf(at.at("body"), "large direct_responses may impact control plane performance, must be less than 1MB (it has %d bytes)", n)
	case n > 100<<10:
		o.warnf(at.at("body"), "large direct_responses may impact control plane performance (it has %d bytes)", n)
	}
	return out
}

func (o *object) rewrite(at *node, r *networking.HTTPRewrite) *policy.Rewrite {
	if r == nil {
		return nil
	}
	out := &policy.Rewrite{URI: r.Uri, Authority: r.Authority}
	if x := r.UriRegexRewrite; x != nil {
		if r.Uri != "" {
			o.errorf(at, "rewrite may only contain one of URI or UriRegexRewrite")
		}
		if x.Match == "" || x.Rewrite == "" {
			o.errorf(at.at("uriRegexRewrite"), "UriRegexRewrite requires both Rewrite and Match fields to be specified")
		} else {
			o.regex(at.at("uriRegexRewrite", "match"), "HTTPRewrite.UriRegexRewrite.Match", x.Match)
		}
		out.RegexMatch, out.RegexRewrite = x.Match, x.Rewrite
	} else if r.Uri == "" && r.Authority == "" {
		o.errorf(at, "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified")
	}
	return out
}

func (o *object) retries(at *node, r *networking.HTTPRetry) *policy.Retries {
	if r == nil {
		return nil
	}
	if r.Attempts < 0 {
		o.errorf(at.at("attempts"), "attempts cannot be negative")
	}
	if r.Attempts == 0 && (r.PerTryTimeout != nil || r.RetryOn != "" || r.RetryRemoteLocalities != nil) {
		o.errorf(at, "http retry policy configured when attempts are set to 0 (disabled)")
	}
	out := &policy.Retries{
		Attempts:      int(max(r.Attempts, 0)),
		PerTryTimeout: o.duration(at.at("perTryTimeout"), "perTryTimeout", r.PerTryTimeout),
		Backoff:       o.duration(at.at("backoff"), "backoff", r.Backoff),
	}
	if r.RetryRemoteLocalities != nil {
		o.inert(at.keyOf("retryRemoteLocalities"), "retryRemoteLocalities")
	}
	if r.RetryIgnorePreviousHosts != nil {
		o.inert(at.keyOf("retryIgnorePreviousHosts"), "retryIgnorePreviousHosts")
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
			o.errorf(at.at("retryOn"), "%q is not a valid retryOn policy%s", token, didYouMean(token, retryTokens))
			continue
		}
		out.On = append(out.On, token)
	}
	if len(out.Codes) > 0 && !slices.Contains(out.On, retriableCodes) {
		out.On = append(out.On, retriableCodes)
	}
	return out
}

const retriableCodes = "retriable-status-codes"

// retryTokens are the conditions that Envoy knows (x-envoy-retry-on and
// x-envoy-retry-grpc-on).
var retryTokens = []string{
	"5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx", "refused-stream",
	retriableCodes, "retriable-headers", "envoy-ratelimited", "http3-post-connect-failure",
	"cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
}

func (o *object) fault(at *node, f *networking.HTTPFaultInjection) *policy.Fault {
	if f == nil {
		return nil
	}
	if f.Abort == nil && f.Delay == nil {
		o.errorf(at, "HTTP fault injection must have an abort and/or a delay")
	}
	out := &policy.Fault{AbortGRPC: -1}
	o.faultDelay(at.at("delay"), f.Delay, out)
	o.faultAbort(at.at("abort"), f.Abort, out)
	return out
}

func (o *object) faultDelay(at *node, d *networking.HTTPFaultInjection_Delay, out *policy.Fault) {
	if d == nil {
		return
	}
	switch t := d.HttpDelayType.(type) {
	case *networking.HTTPFaultInjection_Delay_FixedDelay:
		out.Delay = o.duration(at.at("fixedDelay"), "fixedDelay", t.FixedDelay)
	case *networking.HTTPFaultInjection_Delay_ExponentialDelay:
		o.errorf(at.at("exponentialDelay"), "exponentialDelay not supported yet")
	default:
		o.warnf(at, "delay configured, but fixedDelay not set: it injects nothing")
		if d.Percentage != nil {
			o.percent(at, "delay", d.Percentage)
		}
		return
	}
	//lint:ignore SA1019 deprecated, but Istio acts on it
	percent := d.Percent
	if percent != 0 && d.Percentage == nil {
		o.warnf(at.keyOf("percent"), "percent is deprecated; use percentage.value")
		if percent < 0 || percent > 100 {
			o.errorf(at.at("percent"), "percent %d is not in range 0..100", percent)
		}
		out.DelayPercent = float64(percent)
		return
	}
	out.DelayPercent = o.percent(at, "delay", d.Percentage)
}

func (o *object) faultAbort(at *node, a *networking.HTTPFaultInjection_Abort, out *policy.Fault) {
	if a == nil {
		return
	}
	switch t := a.ErrorType.(type) {
	case *networking.HTTPFaultInjection_Abort_HttpStatus:
		if t.HttpStatus < 200 || t.HttpStatus > 599 {
			o.errorf(at.at("httpStatus"), "HTTP status %d is not in range 200-599", t.HttpStatus)
		}
		out.AbortStatus = int(t.HttpStatus)
	case *networking.HTTPFaultInjection_Abort_GrpcStatus:
		out.AbortGRPC = slices.Index(grpcStatus, t.GrpcStatus)
		if out.AbortGRPC < 0 {
			o.errorf(at.at("grpcStatus"), "gRPC status %q is not supported%s; see https://github.com/grpc/grpc/blob/master/doc/statuscodes.md", t.GrpcStatus, didYouMean(t.GrpcStatus, grpcStatus))
		}
	case *networking.HTTPFaultInjection_Abort_Http2Error:
		o.errorf(at.at("http2Error"), "HTTP/2 abort fault injection not supported yet")
	default:
		o.warnf(at, "abort configured, but error type not set: it injects nothing")
		if a.Percentage != nil {
			o.percent(at, "abort", a.Percentage)
		}
		return
	}
	out.AbortPercent = o.percent(at, "abort", a.Percentage)
}

// percent reads a fault's percentage. Without one nothing is injected: that
// is what Istio does, and it surprises everybody once.
func (o *object) percent(at *node, what string, p *networking.Percent) float64 {
	if p == nil {
		o.warnf(at, "%s without percentage: it injects nothing (0%%)", what)
		return 0
	}
	if p.Value != 0 && (p.Value < 0.0001 || p.Value > 100) {
		o.errorf(at.at("percentage", "value"), "percentage %v is neither 0.0, nor in range [0.0001, 100.0]", p.Value)
	}
	return p.Value
}

// grpcStatus are the gRPC status codes by number.
var grpcStatus = []string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
	"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}
