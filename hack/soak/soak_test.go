// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestSoak: a soak that is too short to say much says that egressd held, and
// that it did not when somebody opens the node meanwhile.
func TestSoak(t *testing.T) {
	testenv.RequireRoot(t)
	dir := t.TempDir()
	egressd, err := testenv.Build(dir, "egressd", "../../cmd/egressd")
	if err != nil {
		t.Fatal(err)
	}
	self, err := testenv.Build(dir, "soak", ".")
	if err != nil {
		t.Fatal(err)
	}
	// Long enough for two restarts of the daemon and for a stream of a second.
	o := options{egressd: egressd, self: self, time: 8 * time.Second, seed: 1}
	kill := disturbances[0]
	res, err := soakFor(t.Context(), o, []disturbance{kill})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Faults) > 0 || res.Astray > 0 || len(res.Disturbances) == 0 {
		var text strings.Builder
		_ = res.print(&text)
		t.Errorf("undisturbed but for kills:\n%s", text.String())
	}
	unload := disturbance{"unload", daemon, 1, func(ctx context.Context, s *soak) error {
		if out, err := s.d.Command(ctx, "unload", "--state-dir", s.d.StateDir(), "--pin-dir", s.d.PinDir()).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		pause(ctx, time.Second)
		_ = s.d.Kill() // it has ended
		return s.d.Start(ctx)
	}}
	res, err = soakFor(t.Context(), o, []disturbance{unload})
	if err != nil {
		t.Fatal(err)
	}
	for _, about := range []string{"wire", "evil-tcp4", "evil-tcp6", "evil-udp4", "evil-udp6", "evil-dns"} {
		if res.Faults[about] == nil {
			t.Errorf("the node was open and nothing is said of %s", about)
		}
	}
	if res.Astray == 0 {
		t.Error("the node was open and nothing went astray")
	}
}

func TestExcuses(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	w := &window{excuses: daemon, from: at(1000), until: at(2000)}
	for _, tt := range []struct {
		needs       need
		from, until int
		want        bool
	}{
		{daemon, 1100, 1200, true},
		{daemon, 900, 1100, true},
		{resolver, 900, 1100, true},
		{daemon, 2400, 2600, true},
		{daemon, 2600, 2700, false},
		{daemon, 500, 900, false},
		{kernel, 1100, 1200, false},
	} {
		if got := w.covers(tt.needs, at(tt.from), at(tt.until)); got != tt.want {
			t.Errorf("%v: %v", tt, got)
		}
	}
	none := &window{excuses: kernel, from: at(1000), until: at(2000)}
	if none.covers(resolver, at(1100), at(1200)) {
		t.Error("what excuses nothing excuses")
	}
	dns := &window{excuses: resolver, from: at(1000)}
	if dns.covers(daemon, at(1100), at(1200)) || !dns.covers(resolver, at(1100), at(9000)) {
		t.Error("dead DNS servers excuse DNS alone, for as long as they are")
	}
}

func TestGrown(t *testing.T) {
	var flat, leak []sample
	for i := range 90 {
		flat = append(flat, sample{RSS: 40 + float64(i%7), FDs: 100, Goroutines: 80, Entries: map[string]float64{"egd_addrs": 20}})
		leak = append(leak, sample{RSS: 40 + 4*float64(i), FDs: 100 + 10*float64(i), Goroutines: 80 + 20*float64(i), Entries: map[string]float64{"egd_addrs": 50 * float64(i)}})
	}
	if got := grown(flat); len(got) > 0 {
		t.Errorf("flat: %q", got)
	}
	if got := grown(leak); len(got) != 4 {
		t.Errorf("growing: %q", got)
	}
}

func TestParseMetrics(t *testing.T) {
	m := parseMetrics([]byte("# HELP x y 1\ngo_goroutines 12\negressd_map_entries{map=\"egd_addrs\"} 3\nbroken\n"))
	if len(m) != 2 || m["go_goroutines"] != 12 || m[`egressd_map_entries{map="egd_addrs"}`] != 3 {
		t.Errorf("%v", m)
	}
}
