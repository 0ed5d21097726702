// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/top/screen"
	"github.com/egressd/egressd/policy"
)

// topEvents are what a daemon says: a request with a hostile host, and a denial.
var topEvents = []flow.Event{
	{Time: time.Unix(1_800_000_000, 0), Kind: flow.Request, Layer: flow.Egress, Workload: "shop/web", Proto: "http", Name: "a\x1b[2Jb", Method: "GET", Allowed: true, Verdict: policy.Proxy, Reason: policy.ReasonAllowed, BytesReceived: 4096},
	{Time: time.Unix(1_800_000_001, 0), Kind: flow.Decision, Layer: flow.Kernel, Workload: "shop/web", Proto: "tcp", Dst: netip.MustParseAddrPort("[2001:db8::1]:22"), Verdict: policy.Deny, Reason: policy.ReasonNoRule, Count: 3, First: time.Unix(1_700_000_000, 0)},
}

// tells is a daemon that says these events, and what it was asked.
func tells(t *testing.T, asked *url.Values) string {
	return fakeDaemon(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != admin.PathFlows {
			http.NotFound(w, r)
			return
		}
		*asked = r.URL.Query()
		enc := json.NewEncoder(w)
		for _, e := range topEvents {
			_ = enc.Encode(e)
		}
	})
}

func TestTopOnce(t *testing.T) {
	var asked url.Values
	dir := tells(t, &asked)
	var out, errs bytes.Buffer
	e := env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: os.Getenv, environ: os.Environ}
	if code := run(t.Context(), e, []string{"top", "--once", "--pod", "shop/web", "--sort", "denied", "--state-dir", dir}); code != exitGood {
		t.Fatalf("code %d: %s", code, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[1])[:5], " ") != "shop/web 2001:db8::1 deny 0 3" || strings.Join(strings.Fields(lines[2])[:10], " ") != `shop/web "a\x1b[2Jb" proxy 0 0 0 0 1 0 4096` {
		t.Errorf("%s", out.String())
	}
	if asked.Get("workload") != "shop/web" || asked.Get("follow") != "" {
		t.Errorf("asked for %v", asked)
	}
	out.Reset()
	if code := run(t.Context(), e, []string{"top", "--once", "-o", "json", "--filter", "NO-RULE", "--state-dir", dir}); code != exitGood {
		t.Fatalf("code %d: %s", code, errs.String())
	}
	var s struct {
		Workloads []struct {
			Name          string
			Denied, Flows int
			Hosts         []struct{ Name string }
		}
	}
	if err := json.Unmarshal(out.Bytes(), &s); err != nil || len(s.Workloads) != 1 || s.Workloads[0].Denied != 3 || len(s.Workloads[0].Hosts) != 1 || s.Workloads[0].Hosts[0].Name != "2001:db8::1" {
		t.Errorf("%v: %s", err, out.String())
	}
}

// TestTopUsage: what cannot be shown is refused, and the error says what else there is.
func TestTopUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, `"egressd flows" prints events`},
		{[]string{"-o", "json"}, "-o json goes with --once"},
		{[]string{"--once", "--sort", "color"}, "--sort is last, name, flows, denied, bytes or rate"},
		{[]string{"--once", "--pod", "a/b/c"}, "--pod is"},
	} {
		var errs bytes.Buffer
		e := env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &errs, getenv: os.Getenv, environ: os.Environ}
		if code := run(t.Context(), e, append([]string{"top", "--state-dir", t.TempDir()}, c.args...)); code != exitUsage || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v: code %d, %s", c.args, code, errs.String())
		}
	}
}

// TestTopReader: the screen is told of each daemon, of all that it says, and of its end.
func TestTopReader(t *testing.T) {
	var mu sync.Mutex
	var said []string
	var asked url.Values
	dir := tells(t, &asked)
	r := topReader{daemon: client{dir, answerWait}, query: url.Values{"follow": {"1"}}}
	done := make(chan struct{})
	r.tell = func(m tea.Msg) {
		mu.Lock()
		defer mu.Unlock()
		switch m := m.(type) {
		case screen.Batch:
			for _, e := range m {
				said = append(said, string(e.Kind))
			}
		case screen.Gone:
			said = append(said, "gone: "+m.Err.Error())
			if strings.Count(strings.Join(said, ";"), "gone") == 2 {
				close(done)
			}
		default:
			said = append(said, fmt.Sprintf("%T", m))
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body, err := r.daemon.follow(ctx, admin.PathFlows, r.query)
	if err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() { r.follow(ctx, body) })
	<-done
	cancel()
	reading.Wait()
	mu.Lock()
	defer mu.Unlock()
	once := "screen.Connected;request;decision;gone: it has ended, or this reader was too slow for it; connecting again"
	if got := strings.Join(said, ";"); !strings.HasPrefix(got, once+";"+once) {
		t.Error(got)
	}
}

func TestQuestionOf(t *testing.T) {
	dst := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	for _, c := range []struct {
		e                      flow.Event
		target, workload, note string
	}{
		{flow.Event{Name: "a.example", Dst: dst("192.0.2.1:443"), Proto: "tls", Workload: "shop/web"}, "a.example:443", "shop/web", ""},
		{flow.Event{Dst: dst("[2001:db8::1]:53"), Proto: "udp", Workload: "node"}, "[2001:db8::1]:53/udp", "", ""},
		{flow.Event{Kind: flow.Query, Name: "a.example", Dst: dst("192.0.2.1:53"), Proto: "dns"}, "a.example:443", "", "The port is not known"},
		{flow.Event{Kind: flow.Request, Name: "a.example:8080", Dst: dst("192.0.2.1:80"), Method: "GET", Path: "/a b?"}, "http://a.example:8080/a%20b%3F", "", ""},
		{flow.Event{Dst: dst("192.0.2.1:0"), Proto: "ip"}, "", "", "It has no port"},
		{flow.Event{}, "", "", "Neither a name nor an address"},
	} {
		q, note := questionOf(c.e)
		if q.Get("target") != c.target || q.Get("workload") != c.workload || !strings.HasPrefix(note, c.note) || c.note == "" && note != "" {
			t.Errorf("%+v: %v, %q", c.e, q, note)
		}
		if c.target != "" {
			if _, err := explain.ParseTarget(q.Get("target")); err != nil {
				t.Error(err)
			}
		}
	}
}
