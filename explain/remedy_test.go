// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestRemedy: each denial that a policy makes says how to allow it, and no other does.
func TestRemedy(t *testing.T) {
	rule := &policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: "api", File: "a.yaml", Line: 1}
	guard := &policy.Ref{Kind: "AuthorizationPolicy", Namespace: "default", Name: "reads"}
	for _, c := range []struct {
		reason policy.Reason
		name   string
		rule   *policy.Ref
		want   string
	}{
		{policy.ReasonNoRule, "", nil, "--allow [2001:db8::1]:443"},
		{policy.ReasonName, "api.example.com", nil, "--allow api.example.com:443"},
		{policy.ReasonPort, "api.example.com", rule, "--allow api.example.com:443"},
		{policy.ReasonNotTLS, "api.example.com", rule, "write protocol: TCP in ServiceEntry default/api"},
		{policy.ReasonNotHTTP, "api.example.com", rule, "write protocol: TCP in ServiceEntry default/api"},
		{policy.ReasonNoName, "", nil, "nothing that was sent names a host: write protocol: TCP"},
		{policy.ReasonAuthorization, "api.example.com", guard, "AuthorizationPolicy default/reads denies it"},
		{policy.ReasonNoAllow, "api.example.com", guard, "add one to AuthorizationPolicy default/reads"},
		{policy.ReasonNoAllow, "api.example.com", nil, "add one"},
		{policy.ReasonNoRoute, "api.example.com", rule, "add one in ServiceEntry default/api"},
		{policy.ReasonSocketType, "", nil, "no rule can"},
		{policy.ReasonMapFull, "api.example.com", rule, ""},
		{policy.ReasonName, "_ldap._tcp.example.com", nil, ""},
	} {
		e := flow.Event{Kind: flow.Decision, Transport: policy.TCP, Proto: "tcp", Dst: netip.MustParseAddrPort("[2001:db8::1]:443"), Name: c.name, Reason: c.reason, Rule: c.rule}
		if got := Remedy(&e); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.reason, got, c.want)
		}
		e.Allowed = true
		if got := Remedy(&e); got != "" {
			t.Errorf("%s, allowed: %q", c.reason, got)
		}
	}
}
