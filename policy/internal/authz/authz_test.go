// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"testing"

	"github.com/egressd/egressd/policy/config"
	"github.com/egressd/egressd/policy/internal/match"
)

// TestAccess: what may still be known decides nothing, and what nobody will
// know counts against the flow. The same guard decides once all is known.
func TestAccess(t *testing.T) {
	method := func(m string) *config.AuthRule {
		return &config.AuthRule{To: []*config.AuthOperation{{Methods: []config.ValueMatch{config.ParseValueMatch(m)}}}}
	}
	only := func(p string) *config.AuthRule {
		return &config.AuthRule{From: []*config.AuthSource{{Namespaces: []config.ValueMatch{config.ParseValueMatch(p)}}}}
	}
	authorizer := func(action config.AuthAction, rules ...*config.AuthRule) *Authorizer {
		list := []*config.AuthorizationPolicy{{Ref: config.Ref{Name: "a"}, Action: action, Rules: rules}}
		return NewCatalog(list, "root", "domain").For(config.Identity{Namespace: "shop"}).Guard(list)
	}
	get, post := &match.Request{Method: "GET"}, &match.Request{Method: "POST"}
	for name, c := range map[string]struct {
		g            *Authorizer
		later, never Access
		get, post    Ruling
	}{
		"nothing is asked":       {nil, AllowAll, AllowAll, Passes, Passes},
		"DENY asks for a method": {authorizer(config.AuthDeny, method("GET")), Undecided, DenyAll, Denied, Passes},
		"ALLOW asks for one":     {authorizer(config.AuthAllow, method("GET")), Undecided, DenyAll, Passes, NotAllowed},
		"ALLOW without rules":    {authorizer(config.AuthAllow), DenyAll, DenyAll, NotAllowed, NotAllowed},
		"DENY for others":        {authorizer(config.AuthDeny, only("other")), AllowAll, AllowAll, Passes, Passes},
		"DENY for the workload":  {authorizer(config.AuthDeny, only("shop")), DenyAll, DenyAll, Denied, Denied},
		"ALLOW for others":       {authorizer(config.AuthAllow, only("other")), DenyAll, DenyAll, NotAllowed, NotAllowed},
		"AUDIT denies nothing":   {authorizer(config.AuthAudit, method("GET")), AllowAll, AllowAll, Passes, Passes},
	} {
		if got := c.g.Access(&Facts{RequestIs: Deferred}); got != c.later {
			t.Errorf("%s: access %d while the request may come, want %d", name, got, c.later)
		}
		if got := c.g.Access(&Facts{RequestIs: Unavailable}); got != c.never {
			t.Errorf("%s: access %d without a request, want %d", name, got, c.never)
		}
		for r, want := range map[*match.Request]Ruling{get: c.get, post: c.post} {
			if got, _ := c.g.Refuses(&Facts{Request: r, RequestIs: Known}, false); got != want {
				t.Errorf("%s: %s is ruled %d, want %d", name, r.Method, got, want)
			}
		}
	}
}
