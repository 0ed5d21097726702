// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/top"
	"github.com/egressd/egressd/policy"
)

var update = flag.Bool("update", false, "write the golden files")

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.Local)

// user is somebody before a screen.
type user struct {
	t *testing.T
	*Screen
	quit  bool
	asked []flow.Event
}

func newUser(t *testing.T) *user {
	u := &user{t: t}
	explain := func(_ context.Context, e flow.Event) string {
		u.asked = append(u.asked, e)
		return "why " + e.Name + "\n" + strings.Repeat("a line of text\n", 30) + "the end\n"
	}
	u.Screen = New(t.Context(), explain, top.ByLast, "", func() time.Time { return noon })
	return u
}

// gets gives the screen messages, and what comes of them.
func (u *user) gets(msgs ...tea.Msg) {
	for _, m := range msgs {
		_, cmd := u.Update(m)
		if _, ok := m.(tick); ok || cmd == nil {
			continue // the next tick is a second away
		}
		switch next := cmd().(type) {
		case tea.QuitMsg:
			u.quit = true
		case nil, tea.SuspendMsg:
		default:
			u.gets(next)
		}
	}
}

var named = map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "up": tea.KeyUp, "down": tea.KeyDown, "pgdown": tea.KeyPgDown, "end": tea.KeyEnd, "home": tea.KeyHome, "backspace": tea.KeyBackspace}

// types presses keys.
func (u *user) types(keys ...string) {
	for _, k := range keys {
		switch code, ok := named[k]; {
		case ok:
			u.gets(tea.KeyPressMsg{Code: code})
		case k == "ctrl+c":
			u.gets(tea.KeyPressMsg{Code: 'c', Mod: tea.ModCtrl})
		default:
			u.gets(tea.KeyPressMsg{Code: []rune(k)[0], Text: k})
		}
	}
}

// sees is the screen as text.
func (u *user) sees() string {
	u.t.Helper()
	text := ansi.Strip(u.View().Content)
	lines := strings.Split(text, "\n")
	if len(lines) != u.height {
		u.t.Errorf("%d lines on a screen of %d", len(lines), u.height)
	}
	for i, l := range lines {
		if w := ansi.StringWidth(l); w > u.width {
			u.t.Errorf("a line of %d cells on a screen of %d: %q", w, u.width, l)
		}
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.Join(lines, "\n")
}

func event(kind flow.Moment, second int, workload, name string, change ...func(*flow.Event)) flow.Event {
	e := flow.Event{
		Time: noon.Add(time.Duration(second) * time.Second), Kind: kind, Layer: flow.Kernel, Workload: workload, Name: name, Proto: "tcp",
		Dst: netip.MustParseAddrPort("192.0.2.1:443"), Allowed: true, Verdict: policy.Direct, Reason: policy.ReasonAllowed,
		Process: flow.Process{PID: 7, Command: "curl"},
	}
	for _, f := range change {
		f(&e)
	}
	return e
}

func refused(e *flow.Event) {
	e.Allowed, e.Verdict, e.Reason, e.More = false, policy.Deny, policy.ReasonNoRule, 1234
}

// traffic are some events.
func traffic() Batch {
	size := func(e *flow.Event) { e.BytesSent, e.BytesReceived = 512, 4_200_000 }
	request := func(e *flow.Event) {
		e.Proto, e.Method, e.Path, e.Verdict, e.Status = "http", "GET", "/v1", policy.Proxy, 200
	}
	return Batch{
		event(flow.Decision, -9, "shop/web", "api.example.com"), event(flow.Close, -8, "shop/web", "api.example.com", size),
		event(flow.Request, -7, "shop/web", "www.example.com", request, size),
		event(flow.Decision, -6, "shop/web", "evil.example", refused),
		event(flow.Query, -5, "egressd", "pypi.org"),
		event(flow.Decision, -4, "egressd", "", refused, func(e *flow.Event) { e.Dst = netip.MustParseAddrPort("[2001:db8::1]:5432") }),
		{Kind: flow.Lost, Time: noon, More: 3},
	}
}

// TestScreens: keys in, screens out.
func TestScreens(t *testing.T) {
	for _, c := range []struct {
		name string
		keys []string
		then []tea.Msg
	}{
		{name: "workloads"},
		{name: "hosts", keys: []string{"down", "enter"}},
		{name: "flows", keys: []string{"down", "enter", "enter"}},
		{name: "explained", keys: []string{"down", "enter", "enter", "enter"}},
		{name: "explained-end", keys: []string{"down", "enter", "enter", "enter", "end"}},
		{name: "back", keys: []string{"down", "enter", "enter", "enter", "esc", "esc"}},
		{name: "filter-typing", keys: []string{"/", "e", "v", "i", "x", "backspace", "l"}},
		{name: "filter-nothing", keys: []string{"/", "z", "z", "enter"}},
		{name: "filter-kept", keys: []string{"/", "q", "esc", "/", "w", "e", "b", "enter", "enter"}},
		{name: "sorted", keys: []string{"s", "s", "s", "r"}},
		{name: "help", keys: []string{"?"}},
		{name: "help-narrow", keys: []string{"?"}, then: []tea.Msg{tea.WindowSizeMsg{Width: 40, Height: 10}, tea.KeyPressMsg{Code: tea.KeyEnd}}},
		{name: "help-left", keys: []string{"down", "?", "down", "esc"}},
		{name: "paused", keys: []string{"p"}, then: []tea.Msg{Batch{event(flow.Decision, 0, "new", "new.example")}, tick(noon)}},
		{name: "gone", then: []tea.Msg{Gone{errors.New("no daemon answers\x1b[2J")}}},
		{name: "again", then: []tea.Msg{Gone{errors.New("no daemon")}, Connected{}, Batch{event(flow.Decision, 0, "new", "new.example")}, tick(noon)}},
		{name: "narrow", keys: []string{"down", "enter"}, then: []tea.Msg{tea.WindowSizeMsg{Width: 40, Height: 10}}},
		{name: "explained-narrow", keys: []string{"down", "enter", "enter", "enter"}, then: []tea.Msg{tea.WindowSizeMsg{Width: 40, Height: 10}}},
		{name: "wide", then: []tea.Msg{tea.WindowSizeMsg{Width: 120, Height: 10}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUser(t)
			u.gets(tea.WindowSizeMsg{Width: 80, Height: 24}, Connected{}, traffic(), tick(noon))
			u.types(c.keys...)
			u.gets(c.then...)
			got := u.sees() + "\n"
			file := filepath.Join("testdata", c.name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// TestSelectionStays: the selection is on a row, not on a line; at the top it stays at
// the top.
func TestSelectionStays(t *testing.T) {
	u := newUser(t)
	u.gets(Connected{}, traffic(), tick(noon))
	u.types("down")
	if r := u.selected(); r.Name != "shop/web" {
		t.Fatalf("selected is %s", r.Name)
	}
	u.gets(Batch{event(flow.Decision, 1, "later", "x.example"), event(flow.Decision, 2, "latest", "x.example")}, tick(noon))
	if r := u.selected(); r.Name != "shop/web" || u.cursor != 3 {
		t.Errorf("selected is %s at %d", r.Name, u.cursor)
	}
	u.types("home")
	u.gets(Batch{event(flow.Decision, 3, "newest", "x.example")}, tick(noon))
	if r := u.selected(); r.Name != "newest" {
		t.Errorf("selected at the top is %s", r.Name)
	}
}

// TestScrolls: the selection is always to be seen, also when the screen gets smaller.
func TestScrolls(t *testing.T) {
	u := newUser(t)
	var b Batch
	for i := range 100 {
		b = append(b, event(flow.Decision, i-100, fmt.Sprintf("w%02d", i), "x.example"))
	}
	u.gets(tea.WindowSizeMsg{Width: 80, Height: 24}, Connected{}, b, tick(noon))
	for _, k := range []string{"down", "pgdown", "end", "up", "home", "pgdown", "pgdown"} {
		u.types(k)
		for _, height := range []int{24, 7, 1, 40} {
			u.gets(tea.WindowSizeMsg{Width: 80, Height: height})
			if s := u.sees(); height > 4 && !strings.Contains(s, "\n> "+u.selected().Name+" ") {
				t.Errorf("after %s, %d lines: %s is not to be seen:\n%s", k, height, u.selected().Name, s)
			}
		}
	}
}

func TestExplainAsksForTheFlow(t *testing.T) {
	u := newUser(t)
	u.gets(Connected{}, traffic(), tick(noon))
	u.types("down", "enter", "enter", "enter")
	if len(u.asked) != 1 || u.asked[0].Name != "evil.example" {
		t.Errorf("asked for %+v", u.asked)
	}
}

func TestQuit(t *testing.T) {
	for _, keys := range [][]string{{"q"}, {"ctrl+c"}, {"/", "q", "ctrl+c"}, {"enter", "q"}} {
		u := newUser(t)
		u.gets(Connected{}, traffic(), tick(noon))
		u.types(keys...)
		if !u.quit {
			t.Errorf("%v do not end it", keys)
		}
	}
	u := newUser(t)
	u.types("/", "q") // a letter of a filter
	if u.quit {
		t.Error("a letter of the filter ends it")
	}
}

// TestHostileNames: nothing that others chose reaches the terminal as more than
// letters, on any screen.
func TestHostileNames(t *testing.T) {
	const evil = "a\x1b]0;owned\x07\x1b[2J\r\nb\u202e\u200b\u009b31m\xff"
	hostile := func(e *flow.Event) { e.Process.Command, e.Interface, e.Method = evil, evil, evil }
	for _, keys := range [][]string{nil, {"enter"}, {"enter", "enter"}, {"enter", "enter", "enter"}} {
		u := newUser(t)
		u.explain = func(context.Context, flow.Event) string { return "safe" }
		u.gets(Connected{}, Batch{event(flow.Decision, 0, evil, evil, hostile), event(flow.Query, 0, evil, evil, hostile)}, tick(noon))
		u.types(keys...)
		text := u.sees()
		if len(keys) < 3 && !strings.Contains(text, `a\x1b]0`) {
			t.Errorf("%v: the name is not to be seen:\n%s", keys, text)
		}
		for _, r := range strings.ReplaceAll(ansi.Strip(u.View().Content), "\n", "") {
			if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
				t.Errorf("%v: %q on the screen", keys, r)
			}
		}
		if strings.Contains(u.View().Content, "\x1b]") || strings.Contains(u.View().Content, "\x1b[2J") {
			t.Errorf("%v: an escape sequence of a name is on the screen: %q", keys, u.View().Content)
		}
	}
}

// TestPlain: a terminal without Unicode gets ASCII alone, and its columns stay where they are.
func TestPlain(t *testing.T) {
	u := newUser(t)
	u.Plain()
	u.gets(Connected{}, Batch{event(flow.Decision, 0, "b\u00fccher/\u65e5\u672c", "m\u00fcnchen.example"), event(flow.Decision, 0, "plain", "x.example")}, tick(noon))
	text := u.sees()
	if !strings.Contains(text, "b?cher/????") {
		t.Errorf("the name is not to be seen:\n%s", text)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if i := strings.IndexFunc(line, func(r rune) bool { return r > unicode.MaxASCII }); i >= 0 {
			t.Errorf("not ASCII: %q", line)
		}
		if strings.Contains(line, "12:00:00") && strings.Contains(line, "  1 ") && !strings.HasSuffix(line, " 12:00:00") {
			t.Errorf("its columns are elsewhere: %q", line)
		}
	}
}

func TestAmount(t *testing.T) {
	for n, want := range map[float64]string{0: "0", 7: "7", 0.25: "0.2", 9999: "9999", 9999.6: "10k", 12345: "12k", 999_499: "999k", 999_600: "1.0M", 4_200_512: "4.2M", 1e18: "1.0E", 1.8e19: "18E"} {
		if got := Amount(n); got != want {
			t.Errorf("%v: %s, want %s", n, got, want)
		}
	}
}
