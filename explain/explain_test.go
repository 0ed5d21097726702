// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/load"
)

const seed = "../examples/seed/googleapis.yaml"

func loadSeed(t *testing.T) *policy.Snapshot {
	t.Helper()
	l, err := load.Paths([]string{seed}, nil)
	if err != nil {
		t.Fatal(err, l.Findings)
	}
	return l.Snapshot
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{
		"http://A.Example/x":      "a.example 80 tcp",
		"https://a.example":       "a.example 443 tcp",
		"https://a.example:8443/": "a.example 8443 tcp",
		"a.example:25":            "a.example 25 tcp",
		"a.example:443/udp":       "a.example 443 udp",
		"192.0.2.1:80":            "192.0.2.1 80 tcp",
		"[2001:db8::1]:80":        "2001:db8::1 80 tcp",
		"[::ffff:192.0.2.1]:80":   "192.0.2.1 80 tcp",
		"http://[2001:db8::1]/":   "2001:db8::1 80 tcp",
		"a.example":               "error",
		"a.example:0":             "error",
		"a.example:70000":         "error",
		"a.example:80/sctp":       "error",
		"ftp://a.example/":        "a.example 21 tcp",
		"http://a b/":             "error",
		"-.example.:80:80":        "error",
		"http://xn--\u00e4.de/":   "error",
		"":                        "error",
	} {
		got := "error"
		if tg, err := ParseTarget(in); err == nil {
			name := tg.host
			if tg.addr.IsValid() {
				name = tg.addr.String()
			}
			got = strings.Join([]string{name, itoa(tg.port), tg.transport.String()}, " ")
		}
		if got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func itoa(p uint16) string {
	return netip.AddrPortFrom(netip.IPv4Unspecified(), p).String()[len("0.0.0.0:"):]
}

// TestExplain: the answer agrees with the decision, and names the rule.
func TestExplain(t *testing.T) {
	s := loadSeed(t)
	for _, c := range []struct {
		target  string
		allowed bool
		reason  policy.Reason
		says    string
	}{
		{"http://www.googleapis.com/x", true, policy.ReasonAllowed, "timeout 10s"},
		{"https://www.googleapis.com/", true, policy.ReasonAllowed, "its SNI must be www.googleapis.com"},
		{"https://www.googleapis.com:80/", false, policy.ReasonNotHTTP, "plain HTTP"},
		{"http://www.googleapis.com:443/", false, policy.ReasonNotTLS, "TLS"},
		{"http://www.googleapis.com:8080/", false, policy.ReasonPort, "80/tcp"},
		{"www.googleapis.com:443/udp", false, policy.ReasonTransport, "443/udp"},
		{"http://evil.example/", false, policy.ReasonName, "the query is denied"},
		{"203.0.113.66:443", false, policy.ReasonNoRule, "refused"},
		{"[2001:db8::66]:443", false, policy.ReasonNoRule, "refused"},
		{"127.0.0.1:8080", true, policy.ReasonAllowed, "loopback"},
	} {
		tg, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Explain(s, nil, Question{Target: tg, Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		steps := strings.Join(x.Steps, "\n")
		if (len(x.Considered) == 0) != (c.says == "loopback" || c.reason == policy.ReasonNoRule || c.reason == policy.ReasonName) {
			t.Errorf("%s: considered %v", c.target, x.Considered)
		}
		if x.Allowed != c.allowed || x.Reason != c.reason || !strings.Contains(steps, c.says) {
			t.Errorf("%s: allowed %t, reason %s, steps:\n%s\nwant %t, %s, and a step that says %q",
				c.target, x.Allowed, x.Reason, steps, c.allowed, c.reason, c.says)
		}
		// A port of another protocol is not opened by one more ServiceEntry.
		if want := !x.Allowed && suggestable(x.Reason); (x.Suggestion != "") != want {
			t.Errorf("%s: says what would allow it: %t, want %t", c.target, !want, want)
		}
	}
}

// TestExplainEndpoints: the endpoints that the kernel chooses from are named.
func TestExplainEndpoints(t *testing.T) {
	l, err := load.Paths([]string{"testdata/endpoints.yaml"}, nil)
	if err != nil {
		t.Fatal(err, l.Findings)
	}
	for target, want := range map[string]string{
		"db.internal:3306":       "direct 192.0.2.1:13306*3, 192.0.2.2:3306",
		"240.0.0.1:3306":         "direct 192.0.2.1:13306*3, 192.0.2.2:3306",
		"[fd00::1]:3306":         "direct [2001:db8::1]:13306",
		"192.0.2.1:3306":         "direct 192.0.2.1:13306",
		"192.0.2.2:3306":         "direct ",
		"https://web.internal/":  "inspect [2001:db8::2]:443",
		"https://port.internal/": "inspect :8443",
	} {
		tg, err := ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		x, err := Explain(l.Snapshot, nil, Question{Target: tg, Method: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		got := x.Verdict.String() + " "
		for _, s := range x.Steps {
			_, to, _ := strings.Cut(s, "drawn by weight: ")
			got += to
		}
		if !strings.Contains(got, want) || want == "direct " && got != want {
			t.Errorf("%s: %q, want %q in\n%s", target, got, want, strings.Join(x.Steps, "\n"))
		}
	}
}

// TestExplainWorkload: every workload can be asked about, by its name or with
// its namespace.
func TestExplainWorkload(t *testing.T) {
	ref := policy.Ref{Kind: "ServiceEntry", Namespace: "prod", Name: "api"}
	s, err := policy.Compile(&policy.Config{
		Services: []*policy.Service{{
			Ref: ref, External: true, Hosts: []hostname.Pattern{"api.example.com"}, Resolution: policy.ResolutionDNS,
			Ports:  []policy.Port{{Number: 443, Protocol: policy.ProtocolTLS}},
			Export: policy.Visibility{Limited: true, Namespaces: []string{"prod"}},
		}},
		Workloads: []*policy.Workload{
			{Identity: policy.Identity{Name: "web", Namespace: "prod"}}, {Identity: policy.Identity{Name: "web", Namespace: "test"}},
			{Identity: policy.Identity{Name: "job", Namespace: "prod"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	tg, err := ParseTarget("https://api.example.com/")
	if err != nil {
		t.Fatal(err)
	}
	for workload, want := range map[string]string{
		"prod/web": "allowed", "job": "allowed", "": "denied", "test/web": "denied",
		"web": "several workloads are called web: prod/web, test/web", "prod/none": "no workload is called prod/none; there is prod/web, test/web, prod/job",
	} {
		x, err := Explain(s, nil, Question{Target: tg, Method: "GET", Workload: workload})
		got := "denied"
		switch {
		case err != nil:
			got = err.Error()
		case x.Allowed:
			got = "allowed"
		case x.Nearest == nil || !strings.Contains(x.Nearest.Why, "exportTo"):
			t.Errorf("%s: nearest %+v", workload, x.Nearest)
		}
		if got != want {
			t.Errorf("%q: %s, want %s", workload, got, want)
		}
	}
}

// TestExplainMode: what a workload has on the node comes before what it asks
// for, and that before the mode of the node. The policy's answer stays.
func TestExplainMode(t *testing.T) {
	audit, off := policy.Audit, policy.Off
	s, err := policy.Compile(&policy.Config{Workloads: []*policy.Workload{
		{Identity: policy.Identity{Name: "silent", Namespace: "prod"}},
		{Identity: policy.Identity{Name: "asks", Namespace: "prod"}, Mode: &audit},
		{Identity: policy.Identity{Name: "free", Namespace: "prod"}, Mode: &off},
	}})
	if err != nil {
		t.Fatal(err)
	}
	tg, err := ParseTarget("https://stranger.example/")
	if err != nil {
		t.Fatal(err)
	}
	held := func(string) (policy.Mode, bool) { return policy.Enforce, true }
	elsewhere := func(string) (policy.Mode, bool) { return 0, false }
	for _, c := range []struct {
		workload string
		node     policy.Mode
		bound    func(string) (policy.Mode, bool)
		want     policy.Mode
	}{
		{"", policy.Enforce, nil, policy.Enforce}, {"", policy.Audit, held, policy.Audit},
		{"silent", policy.Enforce, nil, policy.Enforce}, {"silent", policy.Audit, elsewhere, policy.Audit},
		{"asks", policy.Enforce, nil, policy.Audit}, {"asks", policy.Enforce, elsewhere, policy.Audit}, {"asks", policy.Audit, held, policy.Enforce},
		{"free", policy.Enforce, nil, policy.Off}, {"free", policy.Enforce, held, policy.Enforce},
	} {
		x, err := Explain(s, nil, Question{Target: tg, Method: "GET", Workload: c.workload, Mode: c.node, Bound: c.bound})
		if err != nil {
			t.Fatal(err)
		}
		if x.Mode != c.want || x.Allowed || x.Passes != (c.want != policy.Enforce) {
			t.Errorf("%q on a node in mode %v: mode %v, allowed %t, passes %t; want mode %v", c.workload, c.node, x.Mode, x.Allowed, x.Passes, c.want)
		}
	}
}

// TestDenials: one entry for a destination however often it was tried, and a
// suggestion that check accepts.
func TestDenials(t *testing.T) {
	at := time.Unix(0, 0)
	next := func() time.Time { at = at.Add(time.Second); return at }
	deny := func(k flow.Moment, name, dst string, r policy.Reason, command string) flow.Event {
		e := flow.Event{
			Time: next(), Kind: k, Name: name, Reason: r, Transport: policy.TCP,
			Process: flow.Process{Command: command},
		}
		if k == flow.Query {
			e.Transport = policy.UDP
		}
		if dst != "" {
			e.Dst = netip.MustParseAddrPort(dst)
		}
		return e
	}
	allowed := deny(flow.Decision, "ok.example", "192.0.2.1:443", policy.ReasonAllowed, "curl")
	allowed.Allowed = true
	sum := flow.NewDenials()
	for _, e := range []flow.Event{
		deny(flow.Query, "evil.example", "", policy.ReasonName, "curl"),
		deny(flow.Query, "evil.example", "", policy.ReasonName, "wget"),
		deny(flow.Decision, "", "203.0.113.66:443", policy.ReasonNoRule, "curl"),
		deny(flow.Decision, "", "[2001:db8::66]:25", policy.ReasonNoRule, "curl"),
		deny(flow.Decision, "a.example", "192.0.2.1:8080", policy.ReasonPort, "curl"),
		deny(flow.Close, "a.example", "192.0.2.1:8080", policy.ReasonPort, "curl"),
		deny(flow.Decision, "", "", policy.ReasonSocketType, "ping"),
		allowed,
	} {
		if e.Denied() {
			sum.Add(flow.KeyOf(&e), time.Now(), func() flow.Event { return e })
		}
	}
	got := Summarize(sum.List()).List
	if len(got) != 5 {
		t.Fatalf("%d denials, want 5: %+v", len(got), got)
	}
	if got[0].Count != 2 || strings.Join(got[0].Commands, " ") != "curl wget" {
		t.Errorf("a name that two programs asked for: %+v", got[0])
	}
	if s := SuggestAll(got[4:], policy.Enforce, nil, nil); len(s.Objects) > 0 {
		t.Errorf("a ServiceEntry is suggested for a raw socket: %s", s.YAML())
	}
	for _, d := range got[:4] {
		path := t.TempDir() + "/suggestion.yaml"
		suggestion := SuggestAll([]Denial{d}, policy.Enforce, nil, nil).YAML()
		writeFile(t, path, suggestion)
		l, err := load.Paths([]string{path}, nil)
		if err != nil {
			t.Errorf("the suggestion for %s is refused: %v %v\n%s", d.Target, err, l.Findings, suggestion)
			continue
		}
		p := l.Snapshot.Policy(policy.DefaultPolicy)
		f := policy.Flow{Transport: policy.TCP, Dst: netip.AddrPortFrom(d.Addr, d.Port)}
		if d.Name != "" {
			f.Names = []string{d.Name}
		}
		if d.Port == 0 {
			f.Dst = netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), 443)
		}
		if dec := p.Decide(f); dec.Verdict == policy.Deny {
			t.Errorf("the suggestion for %s does not allow it: %+v\n%s", d.Target, dec, suggestion)
		}
	}
}

// TestSuggestedProtocol: what the client was seen to begin with is suggested,
// else what is usual on the port, and TCP when nothing is.
func TestSuggestedProtocol(t *testing.T) {
	for _, c := range []struct {
		proto, dst, want string
	}{
		{"tcp", "192.0.2.1:443", "HTTPS"}, {"tls", "192.0.2.1:443", "HTTPS"}, {"tls", "[2001:db8::1]:9000", "TLS"},
		{"tcp", "[2001:db8::1]:9000", "TCP"}, {"http", "192.0.2.1:9000", "HTTP"}, {"tcp", "192.0.2.1:5432", "TCP"},
		{"tcp", "192.0.2.1:25", "TCP"}, {"tcp", "192.0.2.1:465", "TLS"}, {"tcp", "192.0.2.1:80", "HTTP"},
	} {
		sum := Summarize([]flow.Event{{Kind: flow.Decision, Name: "a.example", Dst: netip.MustParseAddrPort(c.dst), Proto: c.proto, Transport: policy.TCP, Reason: policy.ReasonPort}})
		got := Suggest(sum.List[0].DeniedTarget)
		if !strings.Contains(got, "protocol: "+c.want+"\n") {
			t.Errorf("%s to %s: want %s in\n%s", c.proto, c.dst, c.want, got)
		}
	}
}

// TestSuggestions: one ServiceEntry for a destination, with all its ports.
func TestSuggestions(t *testing.T) {
	denial := func(name, dst string, tr policy.Transport) Denial {
		w := DeniedTarget{Name: name, Transport: tr}
		if dst != "" {
			a := netip.MustParseAddrPort(dst)
			w.Addr, w.Port = a.Addr(), a.Port()
		}
		return Denial{DeniedTarget: w, Reason: policy.ReasonNoRule}
	}
	got := SuggestAll([]Denial{
		denial("a.example", "", policy.TCP),
		denial("", "192.0.2.1:80", policy.TCP),
		denial("", "192.0.2.1:443", policy.TCP),
		denial("", "192.0.2.1:443", policy.UDP),
		denial("a.example", "192.0.2.2:80", policy.TCP),
		{Reason: policy.ReasonNoRule}, // what no ServiceEntry can allow
	}, policy.Enforce, nil, nil).Objects
	if len(got) != 2 {
		t.Fatalf("%d suggestions, want 2: %q", len(got), got)
	}
	for i, want := range []string{"number: 80\n", "number: 443\n"} {
		if strings.Count(got[1], want) != 1 {
			t.Errorf("%q should be there once:\n%s", want, got[1])
		}
		if n := strings.Count(got[0], want); n != 1-i {
			t.Errorf("%q is there %d times:\n%s", want, n, got[0])
		}
	}
	path := t.TempDir() + "/all.yaml"
	writeFile(t, path, strings.Join(got, "---\n"))
	if l, err := load.Paths([]string{path}, nil); err != nil {
		t.Errorf("%v %v", err, l.Findings)
	}
}
