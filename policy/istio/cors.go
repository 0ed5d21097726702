// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"slices"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"github.com/egressd/egressd/policy"
)

var corsMethods = []string{"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"}

// cors reads a CorsPolicy; nil stays nil.
func (o *object) cors(at *node, c *networking.CorsPolicy) *policy.CORS {
	if c == nil {
		return nil
	}
	o.inert(at.keyOf("corsPolicy"), "corsPolicy")
	at = at.at("corsPolicy")
	out := &policy.CORS{
		AllowMethods: c.AllowMethods, AllowHeaders: c.AllowHeaders, ExposeHeaders: c.ExposeHeaders,
		IgnorePreflights: c.UnmatchedPreflights == networking.CorsPolicy_IGNORE,
	}
	for i, m := range c.AllowOrigins {
		n := at.at("allowOrigins", i)
		if m.GetExact() == "" && m.GetPrefix() == "" && m.GetRegex() == "" {
			o.errorf(n, "'' is not a valid match type for CORS allow origins")
			continue
		}
		out.AllowOrigins = append(out.AllowOrigins, *o.stringMatch(n, "corsPolicy.allowOrigins", m))
	}
	//lint:ignore SA1019 deprecated, but Istio acts on it
	for _, s := range c.AllowOrigin {
		out.AllowOrigins = append(out.AllowOrigins, policy.StringMatch{Kind: policy.MatchExact, Value: s})
	}
	for i, m := range c.AllowMethods {
		if !slices.Contains(corsMethods, m) {
			o.errorf(at.at("allowMethods", i), "%q is not a supported HTTP method%s", m, didYouMean(m, corsMethods))
		}
	}
	o.corsHeaders(at.at("allowHeaders"), c.AllowHeaders)
	o.corsHeaders(at.at("exposeHeaders"), c.ExposeHeaders)
	if c.MaxAge != nil {
		n := at.at("maxAge")
		out.MaxAge = o.duration(n, "maxAge", c.MaxAge)
		if out.MaxAge%time.Second != 0 {
			o.errorf(n, "max_age duration is accurate only to seconds precision")
		}
	}
	if v := c.AllowCredentials; v != nil {
		out.AllowCredentials = new(v.Value)
	}
	return out
}

func (o *object) corsHeaders(at *node, names []string) {
	for i, name := range names {
		switch {
		case name == "":
			o.errorf(at.at(i), "header name cannot be empty")
		case name != "*" && !isHeaderName(name):
			o.errorf(at.at(i), "header name %s is not a valid header name", name)
		}
	}
}
