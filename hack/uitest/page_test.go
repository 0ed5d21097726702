// SPDX-License-Identifier: Apache-2.0

package uitest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/egressd/egressd/agent/admin/ui"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// hostile are what workloads may call hosts, programs and paths.
var hostile = []string{
	`<img src=x onerror=alert(1)>`, `<script>alert(1)</script>`, `"><svg onload=alert(1)>`, `javascript:alert(1)`,
	`'+alert(1)+'`, "${alert(1)}", "{{alert(1)}}", "a\u202egnp.exe", "a\x00b\x1b[31m", "__proto__", "constructor", strings.Repeat("w", 4000), "",
}

// theatre plays a daemon.
type theatre struct {
	url    string
	events *flow.Log
	// away: it does not answer, as one that has ended.
	away atomic.Bool
	// page is the daemon that is played now: when it was started, and what it has decided.
	page atomic.Pointer[http.Handler]
}

// stage plays a daemon whose events are given.
func stage(t *testing.T, events []flow.Event) string { return play(t, events).url }

func play(t *testing.T, events []flow.Event) *theatre {
	t.Helper()
	p := &theatre{}
	p.begin(time.Now(), events)
	mux := http.NewServeMux()
	mux.HandleFunc("/ui/", func(w http.ResponseWriter, r *http.Request) { (*p.page.Load()).ServeHTTP(w, r) })
	mux.HandleFunc("/status", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"ready": true, "mode": "enforce", "version": hostile[0], "policy": map[string]string{"hash": hostile[1]}})
	})
	mux.HandleFunc("/explain", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"allowed": false, "reason": "no-rule", "steps": append([]string{"dns: " + r.URL.Query().Get("target")}, hostile...), "suggestion": "kind: ServiceEntry # " + hostile[0] + "\n"})
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.away.Load() {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// begin makes it a daemon that was started at a time.
func (p *theatre) begin(started time.Time, events []flow.Event) {
	var denials []flow.Event
	p.events = flow.NewLog(10000)
	for _, e := range events {
		if e.Denied() {
			denials = append(denials, e)
		}
		p.events.Record(&e)
	}
	h := ui.SameOrigin(ui.New(struct {
		*flow.Log
		kinds
	}{p.events, denials}, started))
	p.page.Store(&h)
}

// kinds are what was denied.
type kinds []flow.Event

func (k kinds) Denials() []flow.Event { return append([]flow.Event{}, k...) }

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the browser left
}

func event(e flow.Event) flow.Event {
	e.Time = time.Now()
	if e.Kind == "" {
		e.Kind, e.Layer = flow.Decision, flow.Kernel
	}
	if !e.Dst.IsValid() {
		e.Dst = netip.MustParseAddrPort("192.0.2.7:443")
	}
	e.Proto = "tcp"
	return e
}

// hostileEvents are flows, denied and allowed, of whom everything is called by each hostile name.
func hostileEvents() (events []flow.Event) {
	for _, h := range hostile {
		events = append(events,
			event(flow.Event{Name: h, Workload: h, Process: flow.Process{Command: h, PID: 7}, Reason: policy.ReasonNoRule, Detail: h, Method: "GET", Path: "/" + h,
				Rule: &policy.Ref{Kind: "ServiceEntry", Name: h, File: h}}),
			event(flow.Event{Name: h, Workload: "shop/" + h, Process: flow.Process{Command: h}, Allowed: true, Verdict: policy.Proxy, Reason: policy.ReasonAllowed}))
	}
	return events
}

// TestHostileNamesInBrowser: what workloads call hosts, programs, paths and themselves is shown as
// text, in the map, the table and the details, and nothing of it runs.
func TestHostileNamesInBrowser(t *testing.T) {
	base := stage(t, hostileEvents())
	x := open(t, base+"/ui/")
	x.is(t, "every flow has a row", fmt.Sprintf("document.querySelectorAll('#table tbody tr').length === %d", 2*len(hostile)))
	for _, where := range []string{"#map .host", "#map .who", "#table"} {
		if got := x.text(t, fmt.Sprintf("document.querySelector(%q).textContent", where)); !strings.Contains(got, hostile[0]) || !strings.Contains(got, hostile[1]) ||
			!strings.Contains(got, `a\u{202e}gnp.exe`) || strings.ContainsAny(got, "\u202e\x1b\x00") {
			t.Errorf("%s does not show hostile names as text: %q", where, got)
		}
	}
	x.do(t, chromedp.Evaluate(`[...document.querySelectorAll('#table tbody tr.denied')].find(r => r.textContent.includes('onerror')).querySelector('button').click()`, nil))
	x.is(t, "the explanation", `document.querySelector('#details pre')?.textContent.includes('<img src=x onerror=alert(1)>')`)
	if got := x.text(t, "document.querySelectorAll('img:not([src=\"/ui/icon.svg\"]), script:not([src=\"/ui/app.js\"]), svg[onload], [onerror], iframe, object').length"); got != "0" {
		t.Errorf("%s elements were made of names", got)
	}
	// The policy refuses what a mistake in the page would let through.
	if got := x.text(t, `(() => { try { document.body.innerHTML = '<b>'; return 'made' } catch { return 'refused' } })()`); got != "refused" {
		t.Errorf("markup made of text is %s", got)
	}
	x.mu.Lock()
	for i, c := range x.complaints {
		if strings.Contains(c, "TrustedHTML") || strings.Contains(c, "Trusted Type") {
			x.complaints[i] = ""
		}
	}
	x.complaints = strings.Fields(strings.Join(x.complaints, " "))
	x.mu.Unlock()
	x.quiet(t, base)
}

// traffic is what a node may do in a while.
func traffic() []flow.Event {
	allowed := func(who, command, name, dst string, v policy.Verdict) flow.Event {
		return event(flow.Event{Workload: who, Process: flow.Process{Command: command, PID: 4}, Name: name, Dst: netip.MustParseAddrPort(dst), Verdict: v, Allowed: true, Reason: policy.ReasonAllowed,
			Rule: &policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: strings.ReplaceAll(name, ".", "-"), File: "/etc/egressd/policy.yaml", Line: 7}, BytesSent: 517, BytesReceived: 48211})
	}
	var out []flow.Event
	for i := range 40 {
		e := allowed("shop/web", "node", "api.payments.example", "198.51.100.7:443", policy.Inspect)
		e.Time = e.Time.Add(-time.Duration(i*i) * time.Second)
		out = append(out, e)
	}
	request := allowed("shop/web", "node", "inventory.example", "198.51.100.8:80", policy.Proxy)
	request.Kind, request.Method, request.Path, request.Status, request.Proto = flow.Request, "GET", "/v1/items", 200, "http"
	denied := func(who, command, name, dst string, n int, r policy.Reason) flow.Event {
		e := event(flow.Event{Workload: who, Process: flow.Process{Command: command, PID: 9}, Name: name, Dst: netip.MustParseAddrPort(dst), Reason: r, Count: n, More: n})
		if n > 1 {
			e.First = e.Time.Add(-20 * time.Minute)
		}
		return e
	}
	return append(out, request, request, request,
		allowed("shop/web", "curl", "api.payments.example", "198.51.100.7:443", policy.Inspect),
		allowed("build/ci", "npm", "registry.npmjs.example", "198.51.100.9:443", policy.Inspect),
		allowed("build/ci", "git", "github.example", "198.51.100.10:22", policy.Direct),
		allowed("db/postgres", "postgres", "backup.example", "198.51.100.11:5432", policy.Direct),
		denied("build/ci", "npm", "telemetry.tracker.example", "203.0.113.5:443", 37, policy.ReasonName),
		denied("build/ci", "python3", "", "203.0.113.66:4444", 3, policy.ReasonNoRule),
		denied("shop/web", "curl", "api.payments.example", "198.51.100.7:8080", 1, policy.ReasonPort),
		denied("shop/web", "node", "", "[2001:db8:bad::66]:443", 12, policy.ReasonNoRule))
}

// TestPageInBrowser: the page says who talked to whom and how that ended, filters, and is used by
// the keyboard alone; it is light and dark, and fits a narrow window.
func TestPageInBrowser(t *testing.T) {
	base := stage(t, traffic())
	x := open(t, base+"/ui/")
	x.is(t, "each outcome is counted", `[...document.querySelectorAll('.tile .large')].map(e => e.textContent).slice(0, 3).join() === '44,3,53'`)
	x.is(t, "each outcome has lines", `['allowed', 'proxied', 'denied'].every(o => document.querySelector('#map .edge.' + o + ' .line').getTotalLength() > 50)`)
	x.is(t, "each outcome has bars", `['allowed', 'proxied', 'denied'].every(o => document.querySelector('#when rect.' + o))`)
	x.is(t, "the state", `document.querySelector('#state').textContent === 'ready'`)
	if light, dark := x.look(t, "page", "light"), x.look(t, "page", "dark"); light == dark {
		t.Errorf("light and dark are both %s", light)
	}

	// By the keyboard: the first stop skips, the filter filters, Escape clears it.
	rows := func(n int) string {
		return fmt.Sprintf("document.querySelectorAll('#table tbody tr').length === %d", n)
	}
	x.is(t, "all rows", rows(10))
	x.press(t, "/")
	// Chromium types what it is sent, although the page has taken the key.
	x.do(t, chromedp.Evaluate("document.activeElement.id === 'filter' && (document.activeElement.value = '')", nil))
	x.press(t, "p", "y", "t", "h", "o", "n")
	x.is(t, "the filter", rows(1)+` && document.querySelector('#table tbody tr').textContent.includes('203.0.113.66:4444')`)
	x.is(t, "the map is filtered", `document.querySelectorAll('#map .node').length === 2`)
	x.press(t, kb.Escape)
	x.is(t, "all rows again", rows(10))
	x.do(t, chromedp.Evaluate("document.activeElement.blur()", nil))
	for _, stop := range []struct{ what, is string }{
		{"the pause", "e.id === 'live'"}, {"an outcome", "e.matches('.tile.denied')"}, {"the times", "e.name === 'range'"}, {"a process", "e.matches('.who .node')"},
		{"a host", "e.matches('.host .node')"}, {"the filter", "e.id === 'filter'"}, {"the order", "e.matches('th button')"}, {"a flow", "e.matches('tr.denied .badge')"},
	} {
		x.tabTo(t, stop.what, stop.is)
		if x.text(t, "document.activeElement.name === 'range' || getComputedStyle(document.activeElement).outlineStyle !== 'none'") != "true" {
			t.Errorf("the focus cannot be seen at %s", stop.what)
		}
	}
	x.press(t, kb.Enter)
	x.is(t, "the details", `document.querySelector('#details').open && document.querySelector('#details .steps li')`)
	x.tabTo(t, "the copy", "e.id === 'copy'")
	x.look(t, "details", "light")
	x.press(t, kb.Escape)
	x.is(t, "the focus is back", `!document.querySelector('#details').open && document.activeElement.matches('tr.denied .badge')`)

	// An outcome and a host, chosen.
	x.do(t, chromedp.Click(".tile.denied", chromedp.ByQuery))
	x.is(t, "no denials", rows(6)+` && document.querySelector('.tile.denied').getAttribute('aria-pressed') === 'false' && !document.querySelector('.edge.denied')`)
	x.do(t, chromedp.Click(".tile.denied", chromedp.ByQuery), chromedp.Click(`.host .node[title="api.payments.example"]`, chromedp.ByQuery))
	x.is(t, "one host", rows(3)+` && document.querySelectorAll('.edge.dim').length > 0`)
	x.do(t, chromedp.Click("#picked button", chromedp.ByQuery))
	x.is(t, "all hosts", rows(10))
	if got := x.text(t, `[...document.querySelectorAll('button, input, img, svg[role=img], dialog, section')].filter(e => !(e.ariaLabel || e.labels?.length || e.textContent.trim() || e.alt !== undefined || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML).join()`); got != "" {
		t.Errorf("without a name for who listens: %s", got)
	}
	x.do(t, emulation.SetDeviceMetricsOverride(400, 900, 1, true))
	if got := x.text(t, "document.documentElement.scrollWidth <= 400"); got != "true" {
		t.Errorf("a narrow window scrolls sideways: %s", x.text(t, "document.documentElement.scrollWidth"))
	}
	x.look(t, "narrow", "light")
	x.quiet(t, base)
}
