// SPDX-License-Identifier: Apache-2.0

package match

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/egressd/egressd/policy/config"
)

// CORSFilter is a compiled CORS policy. It does what Envoy's filter does
// (source/extensions/filters/http/cors/cors_filter.cc): which methods and
// headers a browser may use it only says, and refuses nothing itself.
type CORSFilter struct {
	src     *config.CORS
	origins []*stringMatcher
	all     bool
	// The values of fields, as Istio joins them (TranslateCORSPolicy).
	methods, headers, expose, maxAge string
}

// NewCORSFilter compiles c. Its errors are those of an origin's expression.
func NewCORSFilter(c *config.CORS) (*CORSFilter, error) {
	out := &CORSFilter{
		src: c, methods: strings.Join(c.AllowMethods, ","), headers: strings.Join(c.AllowHeaders, ","),
		expose: strings.Join(c.ExposeHeaders, ","),
	}
	if c.MaxAge != nil {
		out.maxAge = strconv.FormatInt(int64(*c.MaxAge/time.Second), 10)
	}
	for i := range c.AllowOrigins {
		m, err := newStringMatcher(&c.AllowOrigins[i], false)
		if err != nil {
			return nil, err
		}
		out.origins = append(out.origins, m)
		out.all = out.all || m.matches("*")
	}
	return out, nil
}

// allows says whether an origin is one of the policy's. As in Envoy, one that
// matches "*" stands for all.
func (c *CORSFilter) allows(origin string) bool {
	if c.all {
		return true
	}
	for _, m := range c.origins {
		if m.matches(origin) {
			return true
		}
	}
	return false
}

// Preflight is the answer to r (status 200, no body); false: r is none that is
// answered without the upstream.
func (c *CORSFilter) Preflight(r *Request) ([]config.Header, bool) {
	origin, method := first(r, "Origin"), first(r, "Access-Control-Request-Method")
	if origin == "" || r.Method != http.MethodOptions || method == "" {
		return nil, false
	}
	good := c.allows(origin)
	if !good && !c.src.IgnorePreflights {
		return nil, false
	}
	var out fields
	if good {
		out.add("Access-Control-Allow-Origin", origin)
	}
	out.add("Access-Control-Allow-Credentials", c.credentials())
	out.add("Access-Control-Allow-Methods", orAsked(c.methods, method))
	out.add("Access-Control-Allow-Headers", orAsked(c.headers, first(r, "Access-Control-Request-Headers")))
	out.add("Access-Control-Expose-Headers", c.expose) // as Envoy does
	out.add("Access-Control-Max-Age", c.maxAge)
	return out, true
}

// Response are the fields of the answer to r; those that are there already are
// replaced.
func (c *CORSFilter) Response(r *Request) []config.Header {
	origin := first(r, "Origin")
	if origin == "" || !c.allows(origin) {
		return nil
	}
	var out fields
	out.add("Access-Control-Allow-Origin", origin)
	out.add("Access-Control-Allow-Credentials", c.credentials())
	out.add("Access-Control-Expose-Headers", c.expose)
	return out
}

func (c *CORSFilter) credentials() string {
	if c.src.AllowCredentials != nil && *c.src.AllowCredentials {
		return "true"
	}
	return ""
}

// orAsked is what is allowed: what was asked for when everything is.
func orAsked(allowed, asked string) string {
	if allowed == "*" {
		return asked
	}
	return allowed
}

func first(r *Request, name string) string { return r.Header.Get(name) }

type fields []config.Header

func (f *fields) add(name, value string) {
	if value != "" {
		*f = append(*f, config.Header{Name: name, Value: value})
	}
}
