// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
)

// nothingElse fails when a text has lines or objects that are none of a learned policy's.
func nothingElse(t testing.TB, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		if strings.Contains(line, "EVIL") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
			t.Fatalf("%q is in\n%s", line, text)
		}
	}
	config, findings := istio.Load([]istio.File{{Name: "f", Data: []byte(text)}}, istio.Options{})
	if config == nil || len(findings) > 0 && strings.Contains(text, "kind:") {
		t.Fatalf("%v\n%s", findings, text)
	}
	for _, s := range config.Services {
		if !strings.HasPrefix(s.Ref.Name, prefix+"-") {
			t.Fatalf("%v is in\n%s", s.Ref, text)
		}
	}
}

// TestHostileNames: whatever a program says is its host, its name or its workload's,
// nothing of it gets out of its place in the text.
func TestHostileNames(t *testing.T) {
	l := New(time.Time{}, "")
	texts := []string{"a.example\nEVIL: 1", "a.example\n---\nkind: EVIL", "\"]}\nEVIL", "*", "*.com", "a..b", "-a.example", "10.0.0", "[::1]", "x: {EVIL", "&a.EVIL", "!!EVIL", "\x1b[2KEVIL", strings.Repeat("a.", 200)}
	for _, s := range hostile.Spellings() {
		texts = append(texts, s.Text)
	}
	for _, s := range texts {
		e := seen(s, s, "203.1.113.1:443", policy.TCP)
		e.Process.Command, e.Names, e.Detail = s, []string{s, "good.example"}, s
		l.Add(e)
		e.Kind = flow.Query
		l.Add(e)
		e.Kind, e.Reason = flow.Decision, policy.Reason(s)
		l.Add(e)
	}
	nothingElse(t, text(t, l.Propose(Options{Exact: true})))
	nothingElse(t, text(t, l.Propose(Options{})))
}

// TestFlood: many names take a bounded room, and that they were too many is said.
func TestFlood(t *testing.T) {
	l := New(time.Time{}, "")
	for i := range MaxEach + 10 {
		l.Add(seen("flood", fmt.Sprintf("x%d.a%d.example", i, i), "203.1.113.1:443", policy.TCP))
		q := seen("flood", fmt.Sprintf("q%d.example", i), "203.1.113.1:443", policy.TCP)
		q.Kind = flow.Query
		l.Add(q)
	}
	l.Add(seen("quiet", "quiet.example", "203.1.113.1:443", policy.TCP))
	out := text(t, l.Propose(Options{Identities: []policy.Identity{}}))
	for _, want := range []string{"# not complete: 10 flows", "quiet.example", fmt.Sprintf("and %d more", MaxEach-maxListed)} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if len(l.rows) != MaxEach+1 || len(l.asked) != MaxEach {
		t.Errorf("%d rows, %d names", len(l.rows), len(l.asked))
	}
	few := New(time.Time{}, "")
	for i := range 200 {
		few.Add(seen("flood", fmt.Sprintf("%08x.example.com", i*7919), "203.1.113.1:443", policy.TCP))
	}
	if out := text(t, few.Propose(Options{})); strings.Count(out, "kind:") != 1 || !strings.Contains(out, "200 names below it") {
		t.Errorf("200 generated names are\n%s", out)
	}
}

// TestWildcards: when there is one, and when not.
func TestWildcards(t *testing.T) {
	many := func(format string, dst string) (out []flow.Event) {
		for i := range manyLabels {
			out = append(out, seen("", fmt.Sprintf(format, i), dst, policy.TCP))
		}
		return out
	}
	for name, c := range map[string]struct {
		events []flow.Event
		exact  bool
		want   string
		has    string
	}{
		"generated":         {events: many("e%d7f3a9b2c.cdn.example.net", "203.1.113.1:443"), want: "*.cdn.example.net"},
		"deep":              {events: many("www.e%d7f3a9b2c.cdn.example.net", "203.1.113.1:443"), want: "*.cdn.example.net"},
		"exactly asked for": {events: many("e%d7f3a9b2c.cdn.example.net", "203.1.113.1:443"), exact: true},
		"few":               {events: many("e%d7f3a9b2c.cdn.example.net", "203.1.113.1:443")[1:]},
		"given by people":   {events: many("web%d.example.net", "203.1.113.1:443")},
		"private":           {events: many("e%d7f3a9b2c.cdn.example.net", "10.1.2.3:443")},
		"public suffix":     {events: many("user%d123.github.io", "203.1.113.1:443"), has: "github.io: names there belong to many owners"},
		"rented out":        {events: many("d%d1234567890abc.cloudfront.net", "203.1.113.1:443"), has: "public suffix"},
		"top level":         {events: many("shop%d123.com", "203.1.113.1:443")},
		"underscore":        {events: []flow.Event{seen("", "a_b.example.net", "203.1.113.1:443", policy.TCP)}, want: "*.example.net"},
		"underscore on top": {events: []flow.Event{seen("", "a_b.com", "203.1.113.1:443", policy.TCP)}, has: "not learned: a_b.com"},
	} {
		out := text(t, learnt(t, time.Time{}, c.events...).Propose(Options{Exact: c.exact}))
		if got := strings.Contains(out, "- '"+c.want+"'\n"); c.want != "" && !got || c.want == "" && strings.Contains(out, "- '*.") || !strings.Contains(out, c.has) {
			t.Errorf("%s: %s", name, out)
		}
		nothingElse(t, out)
	}
}

// TestNotLearned: what no ServiceEntry allows, or needs none, is said and not written.
func TestNotLearned(t *testing.T) {
	raw, query, inside, other, folded := seen("", "", "203.1.113.1:443", policy.TCP), seen("", "asked.example", "9.9.9.9:53", policy.UDP), spoke("", seen("", "", "10.96.0.1:443", policy.TCP)),
		seen("w", "w.example", "203.1.113.2:443", policy.TCP), seen("", "", "203.1.113.1:443", policy.TCP)
	raw.Reason, raw.Dst, raw.Transport = policy.ReasonSocketType, netip.AddrPort{}, 0
	query.Kind, inside.Rule, folded.Detail, folded.Count = flow.Query, nil, flow.TooMany, 7
	old := seen("", "old.example", "203.1.113.3:443", policy.TCP)
	old.Time = start.Add(-time.Hour)
	l := New(start, "")
	for _, e := range []flow.Event{raw, query, inside, other, folded, old, {Kind: flow.Lost, More: 3}} {
		l.Add(e)
	}
	out := text(t, l.Propose(Options{}))
	for _, want := range []string{"1 flows that no ServiceEntry allows (socket-type)", "asked.example", "inside of the cluster", "w.example", "not complete: 7 flows", "not complete: 3 events"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Count(out, "kind:") != 1 || strings.Contains(out, "old.example") {
		t.Errorf("more than that was learned:\n%s", out)
	}
	one := New(time.Time{}, "w")
	for _, e := range []flow.Event{other, old} {
		one.Add(e)
	}
	if out := text(t, one.Propose(Options{})); strings.Count(out, "kind:") != 1 || !strings.Contains(out, "w.example") {
		t.Errorf("of one workload:\n%s", out)
	}
}

// TestMerged: objects of a file keep their ports, and what was seen not to be what a port
// is declared as changes that.
func TestMerged(t *testing.T) {
	https := learnt(t, time.Time{}, seen("", "git.example", "203.1.113.1:443", policy.TCP))
	old := text(t, https.Propose(Options{}))
	ssh := seen("", "git.example", "203.1.113.1:443", policy.TCP)
	ssh.Reason = policy.ReasonNotTLS
	next := learnt(t, time.Time{}, ssh, seen("", "git.example", "203.1.113.1:80", policy.TCP), seen("", "new.example", "203.1.113.2:443", policy.TCP))
	next.Drop(compiled(t, old))
	merged, err := next.Propose(Options{Adds: true}).Merged(old)
	if err != nil {
		t.Fatal(err)
	}
	for what, n := range map[string]int{"kind: ServiceEntry": 2, "number: 443": 2, "number: 80": 1, "protocol: TCP": 1, "protocol: HTTPS": 1, "protocol: HTTP\n": 1} {
		if strings.Count(merged, what) != n {
			t.Errorf("%d of %q, not %d:\n%s", strings.Count(merged, what), what, n, merged)
		}
	}
	if no := denies(next, compiled(t, merged)); len(no) > 0 {
		t.Errorf("%v is denied by\n%s", no, merged)
	}
	if same, err := next.Propose(Options{Adds: true}).Merged(merged); err != nil || same != merged {
		t.Errorf("merged again: %v\n%s", err, same)
	}
}

// TestDescribed: workloads that a policy does not describe are described beside it.
func TestDescribed(t *testing.T) {
	all := compiled(t, text(t, learnt(t, start, seen("", "a.example", "203.1.113.1:443", policy.TCP)).Propose(Options{})))
	if f, err := Described(identities, all); err != nil || len(f.Data) > 0 {
		t.Errorf("all are described: %s, %v", f.Data, err)
	}
	f, err := Described(identities, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, findings := istio.Load([]istio.File{f}, istio.Options{})
	if config == nil || len(config.Workloads) != len(identities) {
		t.Errorf("%v in\n%s", findings, f.Data)
	}
}

// FuzzNames: names and programs are data.
func FuzzNames(f *testing.F) {
	f.Add("a.example", "curl", "shop/web")
	f.Add("*.a\n- EVIL", "\n---\nEVIL", "x\n\ty")
	f.Fuzz(func(t *testing.T, name, command, workload string) {
		e := seen(workload, name, "203.1.113.1:443", policy.TCP)
		e.Process.Command = command
		out := text(t, learnt(t, time.Time{}, e).Propose(Options{}))
		config, _ := istio.Load([]istio.File{{Name: "f", Data: []byte(out)}}, istio.Options{})
		if config == nil || len(config.Services) > 1 {
			t.Fatalf("%q %q became\n%s", name, command, out)
		}
	})
}
