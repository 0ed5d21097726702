// SPDX-License-Identifier: Apache-2.0

package flowfilter

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// at is a time of the tests.
func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }

// events are some, by what they are.
func events() map[string]flow.Event {
	of := func(e flow.Event) flow.Event {
		e.Time, e.Layer = at(10), flow.Kernel
		return e
	}
	return map[string]flow.Event{
		"denied":  of(flow.Event{Workload: "shop/web", Dst: netip.MustParseAddrPort("192.0.2.1:443"), Name: "api.evil.example", Reason: policy.ReasonName, Process: flow.Process{PID: 7, Command: "curl"}}),
		"audited": of(flow.Event{Workload: "node", Dst: netip.MustParseAddrPort("[2001:db8::1]:5432"), Names: []string{"a.example", "B.example."}, Allowed: true, WouldDeny: true, Verdict: policy.Direct, Reason: policy.ReasonNoRule}),
		"proxied": of(flow.Event{Workload: "shop/db", Dst: netip.MustParseAddrPort("[::ffff:10.1.2.3]:80"), Upstream: netip.MustParseAddrPort("10.9.9.9:8080"), Name: "a.example", Allowed: true, Verdict: policy.Proxy, Reason: policy.ReasonAllowed, Process: flow.Process{PID: 8, Command: "nginx"}}),
		"folded":  {Time: at(40), More: 3, Duration: 20 * time.Second, Workload: "job", Reason: policy.ReasonNoRule},
		"lost":    {Time: at(10), Kind: flow.Lost, More: 3},
	}
}

// TestWants: what each parameter keeps; of what was lost nobody knows.
func TestWants(t *testing.T) {
	for query, want := range map[string]string{
		"":                                    "audited denied folded lost proxied",
		"since=2026-01-02T03:04:09Z":          "audited denied folded lost proxied",
		"since=2026-01-02T03:04:10Z":          "folded",
		"until=2026-01-02T03:04:10Z":          "audited denied lost proxied",
		"until=2026-01-02T03:04:20Z":          "audited denied folded lost proxied",
		"until=2026-01-02T03:04:19Z":          "audited denied lost proxied",
		"workload=shop/web":                   "denied lost",
		"workload=shop/*,node":                "audited denied lost proxied",
		"namespace=shop":                      "denied lost proxied",
		"host=*.example":                      "audited denied lost proxied",
		"host=b.example":                      "audited lost",
		"host=API.*.example.":                 "denied lost",
		"host=evil.example":                   "lost",
		"address=10.0.0.0/8":                  "lost proxied",
		"address=10.9.9.9":                    "lost proxied",
		"address=2001:db8::/32,192.0.2.1":     "audited denied lost",
		"port=443,5432":                       "audited denied lost",
		"verdict=deny":                        "audited denied folded lost",
		"verdict=would-deny":                  "audited lost",
		"verdict=allow":                       "lost proxied",
		"verdict=direct":                      "audited lost",
		"verdict=proxy":                       "lost proxied",
		"reason=no-rule":                      "audited folded lost",
		"reason=no-rule,name-not-allowed":     "audited denied folded lost",
		"process=curl,8":                      "denied lost proxied",
		"process=*n*":                         "lost proxied",
		"host=*.example&port=80&verdict=deny": "lost",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(q)
		if err != nil {
			t.Errorf("%s: %v", query, err)
		}
		var got []string
		for name, e := range events() {
			if f.Wants(&e) {
				got = append(got, name)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%s: %s, want %s", query, s, want)
		}
	}
}

// TestParse: what is no filter is refused by its name.
func TestParse(t *testing.T) {
	for _, query := range []string{"since=yesterday", "until=1h", "address=example.com", "address=10.0.0.0/33", "port=70000", "port=https", "verdict=allowed", "port=1,,2"} {
		q, _ := url.ParseQuery(query)
		name, _, _ := strings.Cut(query, "=")
		if _, err := Parse(q); err == nil || !strings.HasPrefix(err.Error(), name+": ") {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestLike(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"a", "a", true}, {"a", "ab", false}, {"", "", true}, {"*", "", true}, {"*", "x", true}, {"a*", "ab", true}, {"a*", "ba", false},
		{"*b", "ab", true}, {"a*b", "ab", true}, {"a*a", "a", false}, {"a*b*c", "axbyc", true}, {"a*b*c", "acb", false}, {"*.example", "example", false},
	} {
		if got := Like(c.pattern, c.text); got != c.want {
			t.Errorf("%q %q: %t", c.pattern, c.text, got)
		}
	}
}

// FuzzFilter: a filter is refused or works; what is more is asked, the less is wanted.
func FuzzFilter(f *testing.F) {
	f.Add("since=2026-01-02T03:04:05Z&host=*.example&port=1,2", "a.example", "192.0.2.1:443")
	f.Add("address=::/0&process=*&verdict=deny", "", "[::1]:1")
	f.Fuzz(func(t *testing.T, query, name, dst string) {
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		both, err := Parse(q)
		if err != nil {
			return
		}
		e := flow.Event{Time: at(0), Kind: flow.Decision, Name: name, Workload: name, Process: flow.Process{Command: name}}
		e.Dst, _ = netip.ParseAddrPort(dst) // invalid is one as well
		wanted := both.Wants(&e)
		for _, p := range Parameters {
			less, err := Parse(url.Values{p: q[p]})
			if err != nil {
				t.Fatalf("%s of %q: %v", p, query, err)
			}
			if wanted && !less.Wants(&e) {
				t.Errorf("%q wants what its %s does not", query, p)
			}
		}
	})
}
