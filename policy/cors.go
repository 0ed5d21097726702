// SPDX-License-Identifier: Apache-2.0

package policy

import "github.com/egressd/egressd/policy/internal/match"

// cors compiles the CORS policy of a rule once; nil: it has none that acts. As
// in Envoy, it acts on what is routed, and not on redirects and direct responses.
func (b *builder) cors(rule *HTTPRule) *match.CORSFilter {
	if rule.CORS == nil || len(rule.Route) == 0 {
		return nil
	}
	c, ok := b.corses[rule]
	if !ok {
		c, _ = match.NewCORSFilter(rule.CORS) // validated
		b.corses[rule] = c
	}
	return c
}

// Preflight is what the rule answers to r itself, as a preflight request (200,
// without a body); false: it does not.
func (a *HTTPAction) Preflight(r *Request) ([]Header, bool) {
	if a == nil || a.cors == nil {
		return nil, false
	}
	return a.cors.Preflight(r)
}

// CORS are the fields that the rule sets in the answer to r, after its own
// changes: each takes the place of what the answer has of that name.
func (a *HTTPAction) CORS(r *Request) []Header {
	if a == nil || a.cors == nil {
		return nil
	}
	return a.cors.Response(r)
}
