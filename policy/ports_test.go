// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"
	"testing"
)

// TestRulesOfPorts: rules for some ports leave requests on others alone, which
// a rule with a match on a port would refuse.
func TestRulesOfPorts(t *testing.T) {
	service := func() *Service {
		return with(se("s", ResolutionNone, "a.example.com"), svcPort(80, ProtocolHTTP), svcPort(8080, ProtocolHTTP))
	}
	rules := func(ports ...uint16) *VirtualService {
		v := vs("v", mesh, names("a.example.com"), answer("only", uri(MatchPathPrefix, "/a")))
		v.Ports = ports
		return v
	}
	ask := func(s *Snapshot, port uint16, path string) HTTPDecision {
		r := get("a.example.com", path)
		r.Port = port
		f := Flow{Dst: ap(fmt.Sprintf("203.0.113.1:%d", port)), Names: []string{"a.example.com"}}
		return s.Policy(DefaultPolicy).DecideHTTP(f, r)
	}
	limited := mustCompile(t, &Config{Services: []*Service{service()}, VirtualServices: []*VirtualService{rules(80)}})
	all := mustCompile(t, &Config{Services: []*Service{service()}, VirtualServices: []*VirtualService{rules()}})
	for _, c := range []struct {
		s      *Snapshot
		port   uint16
		path   string
		reason Reason
		rule   bool
	}{
		{limited, 80, "/a", ReasonAllowed, true},
		{limited, 80, "/b", ReasonNoRoute, false},
		{limited, 8080, "/a", ReasonAllowed, false},
		{limited, 8080, "/b", ReasonAllowed, false},
		{all, 8080, "/a", ReasonAllowed, true},
		{all, 8080, "/b", ReasonNoRoute, false},
	} {
		if d := ask(c.s, c.port, c.path); d.Reason != c.reason || (d.Action != nil) != c.rule {
			t.Errorf("port %d %s: %v, by a rule: %t", c.port, c.path, d.Reason, d.Action != nil)
		}
	}
	if limited.Hash() == all.Hash() || !strings.Contains(limited.Text(), "on ports [80] alone") {
		t.Errorf("the snapshots tell no difference:\n%s", limited.Text())
	}
}
