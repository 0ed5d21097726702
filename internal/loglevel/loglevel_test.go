// SPDX-License-Identifier: Apache-2.0

package loglevel

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestLevels: a scope has the level of all until it has one of its own, and while a
// log is in use.
func TestLevels(t *testing.T) {
	var b bytes.Buffer
	l := New(slog.LevelInfo, "dns", "proxy")
	log := l.Logger(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})).With("a", 1)
	dns := Scope(log, "dns").WithGroup("g")
	lines := func() string {
		b.Reset()
		log.Debug("all-debug")
		log.Warn("all-warn")
		dns.Debug("dns-debug")
		dns.Warn("dns-warn")
		var out []string
		for _, m := range []string{"all-debug", "all-warn", "dns-debug", "dns-warn"} {
			if strings.Contains(b.String(), m) {
				out = append(out, m)
			}
		}
		return strings.Join(out, " ")
	}
	for _, c := range []struct{ scope, level, want string }{
		{"", "info", "all-warn dns-warn"},
		{"dns", "debug", "all-warn dns-debug dns-warn"},
		{"", "error", "dns-debug dns-warn"},
		{"dns", Inherit, ""},
		{"", "DEBUG", "all-debug all-warn dns-debug dns-warn"},
		{"dns", "error", "all-debug all-warn"},
	} {
		if err := l.Set(c.scope, c.level); err != nil {
			t.Fatal(err)
		}
		if got := lines(); got != c.want {
			t.Errorf("%s=%s: %s, want %s", c.scope, c.level, got, c.want)
		}
	}
	if got := l.List(); got[All] != "debug" || got["dns"] != "error" || got["proxy"] != "debug" || len(got) != 3 {
		t.Error(got)
	}
	for _, bad := range [][2]string{{"nope", "info"}, {"dns", "loud"}, {"", Inherit}, {"", ""}} {
		if l.Set(bad[0], bad[1]) == nil {
			t.Errorf("%v is taken", bad)
		}
	}
	if plain := slog.New(slog.DiscardHandler); Scope(plain, "dns") != plain || Scope(log, "nope") != log {
		t.Error("a scope of nobody")
	}
}
