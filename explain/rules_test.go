// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/load"
)

// asked explains a target by a file of testdata; headers may follow.
func asked(t *testing.T, s *policy.Snapshot, method, target string, headers ...string) Explanation {
	t.Helper()
	tg, err := ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ParseHeader(headers)
	if err != nil {
		t.Fatal(err)
	}
	x, err := Explain(s, nil, Question{Target: tg, Method: method, Header: h})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func loadFile(t *testing.T, path string) *policy.Snapshot {
	t.Helper()
	l, err := load.Paths([]string{path}, nil)
	if err != nil {
		t.Fatal(err, l.Findings)
	}
	return l.Snapshot
}

// TestExplainRules: whatever a rule does is told, for HTTP, TLS and TCP, on every
// way that it may send a flow.
func TestExplainRules(t *testing.T) {
	s := loadFile(t, "testdata/rules.yaml")
	for _, c := range []struct {
		target string
		denied float64 // the share
		says   []string
	}{
		{"http://api.example.com/v1/x", 0, []string{
			`rewrite the matched path to "/v2/"`, `rewrite the authority to "inner.example.com"`, `set request header "x-set" to "1"`,
			`add request header "x-add": "2"`, `remove request header "x-remove"`, `remove response header "server"`,
			"timeout 10s", "3 retries on 5xx, 2s per try", "route to api.example.com port 80, 1 of 1", `there: set request header "x-there" to "3"`, `uri^="/v1/"`,
		}},
		{"http://api.example.com/regex", 0, []string{`rewrite the path from regex "^/regex" to "/x"`, "copy 50% of the requests to other.example.com", "no copy goes to nobody.example.com: nobody declares it (no-destination)", "CORS policy"}},
		{"http://api.example.com/old", 0, []string{`redirect with 308 to path "/new", authority "other.example.com"`}},
		{"http://api.example.com/gone", 0, []string{`answer 410 without an upstream: "gone for good"`}},
		{"http://api.example.com/fault", 0, []string{"delay 5s for 1% of the requests", "abort with 503 for 2% of the requests"}},
		{"http://api.example.com/some", 0.2, []string{
			"route to api.example.com port 80, 80 of 100: allowed, 80% of all",
			"route to hidden.example.com port 80, 15 of 100: denied (authorization-denied), 15% of all",
			"route to unknown.example.com port 80, 5 of 100: no such service, 5% of all; nobody declares it, answered with 503",
		}},
		{"http://api.example.com/none", 1, []string{"15 of 20: denied (authorization-denied)", "5 of 20: no such service", "GET /none is refused"}},
		{"https://api.example.com/", 0.25, []string{"tls: a connection to api.example.com is matched by VirtualService default/api", "sni [api.example.com] port 443",
			"tls: route to other.example.com port 443, 3 of 4: allowed, 75% of all", "tls: route to hidden.example.com port 443, 1 of 4: denied (authorization-denied), 25% of all"}},
		{"tcp://api.example.com:5432", 0.25, []string{"tcp: route to other.example.com port 5432, 3 of 4: allowed", "tcp: route to hidden.example.com port 5432, 1 of 4: denied (authorization-denied)"}},
	} {
		x := asked(t, s, "GET", c.target)
		steps := strings.Join(x.Steps, "\n")
		for _, say := range c.says {
			if !strings.Contains(steps, say) {
				t.Errorf("%s: does not say %q:\n%s", c.target, say, steps)
			}
		}
		if diff := x.DeniedShare - c.denied; diff > 1e-9 || diff < -1e-9 || x.Allowed != (c.denied < 1) {
			t.Errorf("%s: allowed %t, denied %g, want %g:\n%s", c.target, x.Allowed, x.DeniedShare, c.denied, steps)
		}
	}
}

// TestExplainGateways: each gateway on the way is named, with its rule.
func TestExplainGateways(t *testing.T) {
	for example, says := range map[string][]string{
		"http":  {"go on through gateway default/istio-egressgateway port 80", "what goes there is matched by", "route to news.example.com port 80, 100 of 100"},
		"https": {"tls: go on through gateway default/istio-egressgateway port 443", "tls: what goes there is matched by", "tls: route to"},
	} {
		s := loadFile(t, "../examples/istio/egress-gateway-"+example+".yaml")
		x := asked(t, s, "GET", example+"://news.example.com/")
		steps := strings.Join(x.Steps, "\n")
		for _, say := range says {
			if !x.Allowed || !strings.Contains(steps, say) {
				t.Errorf("%s: does not say %q:\n%s", example, say, steps)
			}
		}
	}
}

// TestExplainRequest: method and headers decide, as they do for a real request.
func TestExplainRequest(t *testing.T) {
	s := loadFile(t, "testdata/rules.yaml")
	for _, c := range []struct {
		method, target string
		headers        []string
		want           string // in the steps
	}{
		{"GET", "http://api.example.com/", nil, "route to api.example.com port 80"},
		{"GET", "http://api.example.com/", []string{"X-User: beta"}, `header["X-User"]="beta"`},
		{"GET", "http://api.example.com/", []string{"x-user: alpha"}, "route to api.example.com port 80"},
		{"POST", "http://api.example.com/", nil, `method="POST"`},
		{"GET", "http://api.example.com/", []string{"Host: stranger.test"}, "is refused (name-not-allowed)"},
		{"GET", "http://at.example.com/", []string{"host: api.example.com:80", "x-user: beta"}, `header["X-User"]="beta"`},
	} {
		x := asked(t, s, c.method, c.target, c.headers...)
		if steps := strings.Join(x.Steps, "\n"); !strings.Contains(steps, c.want) {
			t.Errorf("%s %s %q: does not say %q:\n%s", c.method, c.target, c.headers, c.want, steps)
		}
	}
	for _, bad := range []string{"x", ": y", "a b: c", "a: b\r\nc: d"} {
		if _, err := ParseHeader([]string{bad}); err == nil {
			t.Errorf("%q is taken for a header", bad)
		}
	}
}

// TestExplainAddress: an address is explained by its rules.
func TestExplainAddress(t *testing.T) {
	s := loadFile(t, "testdata/rules.yaml")
	for target, want := range map[string][]string{
		"http://192.0.2.7/":        {"timeout 9s", "VirtualService default/by-address"},
		"http://[2001:db8::7]/":    {"no VirtualService acts on the host"},
		"https://192.0.2.7/":       {"carries no name (SNI)"},
		"https://[2001:db8::7]/":   {"carries no name (SNI)"},
		"tcp://192.0.2.7:5432":     {"tcp: a connection is matched by VirtualService default/at", "route to other.example.com port 5432"},
		"tcp://[2001:db8::7]:5432": {"tcp: a connection is matched by VirtualService default/at", "route to other.example.com port 5432"},
		"192.0.2.7:5432":           {"route to other.example.com port 5432"},
	} {
		x := asked(t, s, "GET", target)
		for _, say := range want {
			if steps := strings.Join(x.Steps, "\n"); !strings.Contains(steps, say) {
				t.Errorf("%s: does not say %q:\n%s", target, say, steps)
			}
		}
		if strings.Contains(target, "192.0.2.7/") && strings.HasPrefix(target, "http:") {
			considered := ""
			for _, c := range x.Considered {
				considered += c.String() + "\n"
			}
			if !strings.Contains(considered, "rule 1: matches") || !strings.Contains(considered, "counts: names the address 192.0.2.7 on port 80/tcp") {
				t.Errorf("%s: the rule is not considered:\n%s", target, considered)
			}
		}
	}
}

// TestExplainEmpty: a STATIC service without endpoints is somewhere that nothing
// can be reached, and one with is not.
func TestExplainEmpty(t *testing.T) {
	s := loadFile(t, "testdata/rules.yaml")
	for _, target := range []string{"http://empty.example.com/", "https://empty.example.com/", "tcp://empty.example.com:5432",
		"http://240.0.0.9/", "http://[fd00::9]/", "240.0.0.9:5432", "[fd00::9]:5432"} {
		x := asked(t, s, "GET", target)
		if steps := strings.Join(x.Steps, "\n"); !strings.Contains(steps, "nothing can be reached") {
			t.Errorf("%s: %v %v\n%s", target, x.Verdict, x.Reason, steps)
		}
	}
	for _, target := range []string{"http://api.example.com/", "http://192.0.2.7/"} {
		if steps := strings.Join(asked(t, s, "GET", target).Steps, "\n"); strings.Contains(steps, "nothing can be reached") {
			t.Errorf("%s:\n%s", target, steps)
		}
	}
}
