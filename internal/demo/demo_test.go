// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/policy"
)

// TestMain also plays an egressd that is ready at once and enforces nothing.
func TestMain(m *testing.M) {
	if os.Getenv("DEMO_FAKE") == "" {
		os.Exit(testenv.Main(m))
	}
	switch os.Args[1] {
	case "run":
		err := http.ListenAndServe("127.0.0.1:15021", http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	case "demo-client":
		if err := Client(context.Background(), os.Args[2:], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
}

// fake writes a program that runs this test binary as that egressd.
func fake(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "egressd")
	script := fmt.Sprintf("#!/bin/sh\nDEMO_FAKE=1 exec %s \"$@\"\n", os.Args[0])
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// cancelAt ends a context when a text is printed.
type cancelAt struct {
	bytes.Buffer
	text   string
	cancel func()
}

func (c *cancelAt) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(c.text)) {
		c.cancel()
	}
	return c.Buffer.Write(b)
}

// TestRunSeesWhatIsNotEnforced shows that the demo fails where nothing is
// enforced, and that an interrupted demo leaves nothing.
func TestRunSeesWhatIsNotEnforced(t *testing.T) {
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	testenv.NoGoroutineLeak(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &cancelAt{text: "QUIC", cancel: cancel}
	err := Run(ctx, Options{Out: out, Self: fake(t)})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Run: %v, want %v; output:\n%s", err, context.Canceled, out.String())
	}
	for _, want := range []string{
		"ok GET http://www.googleapis.com ", "ok GET https://www.googleapis.com over IPv6 ", "ok connect external-db.xxx.yyy:3306 ",
		"!! GET http://stranger.example ", "!! ask DNS for stranger.example ", "!! GET http://203.0.113.66 ",
		"!! UDP to 203.0.113.66:443 ", "!! connect external-db:3306 ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if left := world.Leftovers(os.Getpid()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRunTellsWhyEgressdDidNotStart(t *testing.T) {
	testenv.RequireCgroup2(t)
	testenv.RequireBPF(t)
	self := filepath.Join(t.TempDir(), "egressd")
	if err := os.WriteFile(self, []byte("#!/bin/sh\necho no such $1 >&2; [ $1 = unload ]\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{Out: &bytes.Buffer{}, Self: self})
	if err == nil || !strings.Contains(err.Error(), "no such run") {
		t.Errorf("got %v, want the end of the daemon's log", err)
	}
}

func TestClient(t *testing.T) {
	w := testenv.World(t)
	cg := testenv.Cgroup(t)
	self := fake(t)
	tests := []struct {
		args []string
		want func(outcome) bool
	}{
		{[]string{"http", "http://" + world.API + "/status/404"}, status(404)},
		{[]string{"http", "-6", "-ca", w.CAFile(), "https://" + world.API + "/"}, status(200)},
		{[]string{"http", "-4", "https://" + world.API + "/"}, refused}, // unknown authority
		{[]string{"http", "-at", world.StrangerV4, "http://" + world.API + "/"}, status(200)},
		{[]string{"tcp", world.ExternalDB + ":3306"}, answered("MariaDB")},
		{[]string{"tcp", world.StrangerV4 + ":9"}, func(o outcome) bool { return atOnce(o) && o.Errno == syscall.ECONNREFUSED }},
		{[]string{"udp", world.StrangerV4 + ":443"}, answered("hello")},
		{[]string{"dns", world.ResolverV4 + ":53", world.API}, answered("NOERROR")},
		{[]string{"dns", "[" + world.ResolverV6 + "]:53", "nobody.example"}, answered("NXDOMAIN")},
	}
	for _, tt := range tests {
		s := &stage{w: w, cg: cg, self: self, report: &report{}}
		if o := s.attempt(t.Context(), attempt{try: tt.args}); !tt.want(o) {
			t.Errorf("%q: %+v", tt.args, o)
		}
	}
	broken := &stage{w: w, cg: cg, self: "/nonexistent", report: &report{}}
	if row := broken.row(t.Context(), attempt{try: []string{"dns", "x", "y"}, want: refused}); row.OK {
		t.Errorf("a client that did not run counts as refused: %+v", row)
	}
	if err := Client(t.Context(), []string{"tcp"}, &bytes.Buffer{}); err == nil {
		t.Error("bad arguments were taken")
	}
}

func TestReport(t *testing.T) {
	rows := []Row{
		{What: "GET a", Happened: "200 in 1ms", OK: true, Promise: "200"},
		{What: strings.Repeat("x", 80), Happened: "200", Promise: "refused"},
	}
	var text bytes.Buffer
	r := &report{out: &text}
	r.progress("nobody sees this")
	for _, row := range rows {
		r.add(row)
	}
	if err := r.finish(); err != nil {
		t.Fatal(err)
	}
	want := "ok " + pad("GET a", whatWidth) + pad("200 in 1ms", happenedWidth) + "\n" +
		"!! " + strings.Repeat("x", whatWidth-3) + "~  " + pad("200", happenedWidth) + "unexpected: promised is refused\n" +
		"\n1 of 2 were not as promised.\n"
	if text.String() != want {
		t.Errorf("got\n%s\nwant\n%s", text.String(), want)
	}
	var doc bytes.Buffer
	j := &report{out: &doc, json: true, rows: rows}
	j.say("nobody sees this")
	if err := j.finish(); err != nil {
		t.Fatal(err)
	}
	var got struct {
		OK   bool
		Rows []Row
	}
	if err := json.Unmarshal(doc.Bytes(), &got); err != nil || got.OK || !slices.Equal(got.Rows, rows) {
		t.Errorf("%v %+v", err, got)
	}
}

func TestMatches(t *testing.T) {
	now := time.Unix(1000, 0)
	byName := attempt{name: "a.example"}
	byAddr := attempt{addr: netip.MustParseAddr("203.0.113.66")}
	tests := []struct {
		name string
		a    attempt
		e    event
		want bool
	}{
		{"name", byName, event{Time: now, Name: "A.example."}, true},
		{"other name", byName, event{Time: now, Name: "b.example"}, false},
		{"allowed", byName, event{Time: now, Name: "a.example", Allowed: true}, false},
		{"earlier attempt", byName, event{Time: now.Add(-time.Minute), Name: "a.example"}, false},
		{"silenced by that of an earlier attempt", byName, event{Time: now.Add(-900 * time.Millisecond), Name: "a.example"}, true},
		{"earlier attempt at an address", byAddr, event{Time: now.Add(-900 * time.Millisecond), Dst: netip.MustParseAddrPort("203.0.113.66:443")}, false},
		{"address", byAddr, event{Time: now, Dst: netip.MustParseAddrPort("203.0.113.66:443")}, true},
		{"mapped address", byAddr, event{Time: now, Dst: netip.MustParseAddrPort("[::ffff:203.0.113.66]:443")}, true},
		{"no address", byAddr, event{Time: now}, false},
	}
	for _, tt := range tests {
		if got := matches(tt.e, tt.a, now); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestParseEvents(t *testing.T) {
	one := `{"time":"2026-01-02T03:04:05Z","dst":"1.2.3.4:80","reason":"no-rule"}`
	for _, in := range []string{one + "\n" + one + "\n", "[" + one + "," + one + "]"} {
		got, err := parseEvents(strings.NewReader(in))
		if err != nil || len(got) != 2 || got[1].Reason != policy.ReasonNoRule || got[1].Dst.Port() != 80 {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	if _, err := parseEvents(strings.NewReader("{")); err == nil {
		t.Error("a cut event was taken")
	}
}

func TestDescribe(t *testing.T) {
	tests := []struct {
		o    outcome
		want string
	}{
		{outcome{Status: 504, Took: 10012 * time.Millisecond}, "504 in 10s"},
		{outcome{Text: "REFUSED", Took: 1234567}, "REFUSED in 1.23ms"},
		{outcome{Error: "dial tcp: connect: x", Errno: syscall.EPERM, Took: 431 * time.Microsecond}, "operation not permitted after 431µs"},
		{outcome{Error: "curl: (6) Could not resolve host: a"}, "Could not resolve host after 0s"},
		{outcome{Error: "curl: (7) Failed to connect to a port 80 after 0 ms: Couldn't connect to server"}, "no connection after 0s"},
		{outcome{}, "nothing"},
	}
	for _, tt := range tests {
		if got := describe(tt.o); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.o, got, tt.want)
		}
	}
}
