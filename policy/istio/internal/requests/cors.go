// SPDX-License-Identifier: Apache-2.0

package requests

import (
	"slices"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio/internal/check"
	"github.com/egressd/egressd/policy/istio/internal/strictyaml"
)

// CORS reads the corsPolicy in the mapping at; nil stays nil.
func CORS(o *check.Checker, at *strictyaml.Node, c *networking.CorsPolicy) *policy.CORS {
	if c == nil {
		return nil
	}
	at = at.At("corsPolicy")
	out := &policy.CORS{
		AllowMethods: c.AllowMethods, AllowHeaders: c.AllowHeaders, ExposeHeaders: c.ExposeHeaders,
		IgnorePreflights: c.UnmatchedPreflights == networking.CorsPolicy_IGNORE,
	}
	for i, m := range c.AllowOrigins {
		n := at.At("allowOrigins", i)
		if m.GetExact() == "" && m.GetPrefix() == "" && m.GetRegex() == "" {
			o.Errorf(n, "'' is not a valid match type for CORS allow origins")
			continue
		}
		out.AllowOrigins = append(out.AllowOrigins, *StringMatch(o, n, "corsPolicy.allowOrigins", m))
	}
	//lint:ignore SA1019 deprecated, but Istio acts on it where the other is not set
	for _, s := range c.AllowOrigin {
		if c.AllowOrigins != nil {
			break
		}
		out.AllowOrigins = append(out.AllowOrigins, policy.StringMatch{Kind: policy.MatchExact, Value: s})
	}
	for i, m := range c.AllowMethods {
		if !slices.Contains(check.CORSMethods, m) {
			o.Errorf(at.At("allowMethods", i), "%q is not a supported HTTP method%s", m, strictyaml.DidYouMean(m, check.CORSMethods))
		}
	}
	o.CORSHeaders(at.At("allowHeaders"), c.AllowHeaders)
	o.CORSHeaders(at.At("exposeHeaders"), c.ExposeHeaders)
	if c.MaxAge != nil {
		n := at.At("maxAge")
		out.MaxAge = new(o.Duration(n, "maxAge", c.MaxAge))
		if *out.MaxAge%time.Second != 0 {
			o.Errorf(n, "max_age duration is accurate only to seconds precision")
		}
	}
	if v := c.AllowCredentials; v != nil {
		out.AllowCredentials = new(v.Value)
	}
	return out
}
