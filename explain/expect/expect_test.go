// SPDX-License-Identifier: Apache-2.0

package expect

import (
	"strings"
	"testing"

	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

const policyText = `apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: beta}
spec:
  hosts: [api.example.com]
  http:
  - match: [{headers: {x-user: {exact: beta}}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 503}}
    route: [{destination: {host: api.example.com}}]
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new}
  - match: [{uri: {prefix: /hello}}]
    directResponse: {status: 200, body: {string: hi}}
  - timeout: 10s
    route: [{destination: {host: api.example.com}}]
---
apiVersion: egressd.dev/v1
kind: Workload
metadata: {name: build, namespace: ci}
spec: {cgroups: [system.slice/build.service]}
---
`

// outcomes runs tests beside the policy.
func outcomes(t *testing.T, tests string) []Comparison {
	t.Helper()
	files := []istio.File{{Name: "policy.yaml", Data: []byte(policyText + tests)}}
	l, err := load.With(files, istio.Options{})
	if err != nil {
		t.Fatalf("%v: %v", err, l.Findings)
	}
	cases, err := Cases(files)
	if err != nil {
		t.Fatal(err)
	}
	return Run(l.Snapshot, cases)
}

func testObject(spec string) string {
	return "apiVersion: egressd.dev/v1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n" + spec
}

// TestRun: a case that holds, and its twin that does not, each of which says why.
func TestRun(t *testing.T) {
	for _, c := range []struct{ good, bad, says string }{
		{"target: https://api.example.com/, expect: allow", "target: https://api.example.com/, expect: deny", "allowed, verdict inspect by ServiceEntry default/api policy.yaml:3:18, expected deny"},
		{"target: https://other.example/, expect: deny", "target: https://other.example/, expect: allow", "denied (name-not-allowed), expected allow"},
		{"target: 'http://api.example.com/', expect: proxy", "target: 'http://api.example.com/', expect: direct", "verdict proxy by"},
		{"target: '203.0.113.1:443', expect: deny, reason: no-rule", "target: '203.0.113.1:443', expect: deny, reason: name-not-allowed", "the reason is no-rule, expected name-not-allowed"},
		{"target: 'http://api.example.com/', expect: allow, rule: VirtualService default/beta", "target: 'http://api.example.com/', expect: allow, rule: VirtualService default/other", "expected VirtualService default/other to decide or to act"},
		{"target: 'http://api.example.com/', expect: allow, says: [timeout 10s]", "target: 'http://api.example.com/', headers: {x-user: beta}, expect: allow, says: [timeout 10s]", `no step says "timeout 10s"`},
		{"target: 'http://api.example.com/old', expect: redirect", "target: 'http://api.example.com/', expect: redirect", "allowed, verdict proxy by VirtualService default/beta policy.yaml:22:5, expected redirect"},
		{"target: 'http://api.example.com/hello', expect: respond", "target: 'http://api.example.com/old', expect: respond", "answered with a redirect by VirtualService default/beta policy.yaml:18:5, expected respond"},
		{"target: https://api.example.com/, workload: ci/build, expect: allow", "target: https://api.example.com/, workload: ci/none, expect: allow", "no workload is called ci/none"},
	} {
		got := outcomes(t, testObject("  cases:\n  - {"+c.good+"}\n  - {"+c.bad+"}\n"))
		if len(got) != 2 || !got[0].Ok() || got[1].Ok() || !strings.Contains(strings.Join(got[1].Failures, "; "), c.says) {
			t.Errorf("%s: %v; %s: %v, want %q", c.good, got[0].Failures, c.bad, got[1].Failures, c.says)
		}
	}
}

// TestCases: places, defaults and lists; other objects are left alone.
func TestCases(t *testing.T) {
	got := outcomes(t, testObject("  workload: ci/build\n  cases:\n  - targets: ['https://api.example.com/', 'http://api.example.com/']\n    expect: allow\n  - target: https://other.example/\n    workload: ''\n    expect: deny\n"))
	if len(got) != 3 || got[0].Workload != "ci/build" || got[2].Workload != "" || got[2].Line != got[0].Line+2 || got[1].Line != got[0].Line {
		t.Errorf("%+v", got)
	}
	for _, o := range got {
		if !o.Ok() || o.Test != "t" || o.File != "policy.yaml" {
			t.Errorf("%+v", o)
		}
	}
}

// TestMistakes: a test that cannot be run is an error with its place, and none is left
// out in silence.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		testObject("  cases: []\n"):                                                                           "f:1: PolicyTest t has no spec.cases",
		testObject("  cases:\n  - {target: https://a.example/}\n"):                                            `f:6: expect is allow, deny, direct, inspect, proxy, redirect, respond, not ""`,
		testObject("  cases: {target: https://a.example/}\n"):                                                 "into a list, each item of which begins with a hyphen",
		testObject("  cases:\n  - {expect: allow}\n"):                                                         "f:6: a case needs a target",
		testObject("  cases:\n  - {target: a.example, expect: allow}\n"):                                      "f:6: a.example: give a URL",
		testObject("  cases:\n  - {target: https://a.example/, expects: allow}\n"):                            "field expects is not known in a case",
		testObject("  tests:\n  - {target: https://a.example/, expect: allow}\n"):                             "field tests is not known in spec",
		testObject("  cases:\n  - {target: https://a.example/, headers: {'a b': c}, expect: allow}\n"):        "is no header",
		strings.Replace(testObject("  cases: []\n"), "/v1", "/v2", 1):                                         "apiVersion egressd.dev/v2 is not known",
		testObject("  cases:\n  - {target: https://a.example/, expect: allow, target: https://b.example/}\n"): "already defined",
		"a: [\nkind: PolicyTest": "f: yaml",
	} {
		if _, err := Cases([]istio.File{{Name: "f", Data: []byte(text)}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}

// FuzzCases: whatever a file is, reading it ends, and what is read can be run.
func FuzzCases(f *testing.F) {
	f.Add(testObject("  cases:\n  - {target: https://api.example.com/, expect: allow}\n"))
	f.Add(testObject("  cases:\n  - targets: [a:1, '*']\n    expect: deny\n    says: [x]\n"))
	l, err := load.With([]istio.File{{Name: "policy.yaml", Data: []byte(policyText)}}, istio.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		cases, err := Cases([]istio.File{{Name: "f", Data: []byte(text)}})
		if err == nil && len(Run(l.Snapshot, cases)) != len(cases) {
			t.Error("a case has no outcome")
		}
	})
}
