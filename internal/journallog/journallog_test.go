// SPDX-License-Identifier: Apache-2.0

package journallog_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/egressd/egressd/internal/journallog"
)

func TestLines(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(*slog.Logger)
		want string
	}{
		{"error", func(l *slog.Logger) { l.Error("it broke", "error", errors.New("a b")) }, "<3>msg=\"it broke\" error=\"a b\"\n"},
		{"warning", func(l *slog.Logger) { l.Warn("look") }, "<4>msg=look\n"},
		{"info", func(l *slog.Logger) { l.Info("ready") }, "<6>msg=ready\n"},
		{"debug is left out", func(l *slog.Logger) { l.Debug("detail") }, ""},
		{"between levels", func(l *slog.Logger) { l.Log(context.Background(), slog.LevelWarn+1, "odd") }, "<4>msg=odd\n"},
		//nolint:sloglint // the name that must stay is the level's
		{"an attribute named level stays", func(l *slog.Logger) { l.Info("x", "level", 3) }, "<6>msg=x level=3\n"},
		{"attributes and groups", func(l *slog.Logger) { l.With("scope", "dns").WithGroup("g").Warn("x", "a", 1) }, "<4>msg=x scope=dns g.a=1\n"},
		{"a line break is no new line", func(l *slog.Logger) { l.Info("a\n<0>b", "k", "c\nd") }, "<6>msg=\"a\\n<0>b\" k=\"c\\nd\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			tt.say(slog.New(journallog.New(&out, slog.LevelInfo)))
			if got := out.String(); got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// TestDebug: a level that takes all has lines of debug, too.
func TestDebug(t *testing.T) {
	var out bytes.Buffer
	slog.New(journallog.New(&out, slog.LevelDebug)).Debug("detail")
	if got := out.String(); got != "<7>msg=detail\n" {
		t.Errorf("%q", got)
	}
}

// TestOneWrite: who reads gets whole lines.
func TestOneWrite(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		slog.New(journallog.New(w, slog.LevelInfo)).Warn("x")
		_ = w.Close()
	}()
	b := make([]byte, 100)
	n, err := r.Read(b)
	if got := string(b[:n]); err != nil || got != "<4>msg=x\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestError(t *testing.T) {
	for text, want := range map[string]string{
		"":               "",
		"egressd: no\n":  "<3>egressd: no\n",
		"one\ntwo\n":     "<3>one\n<3>two\n",
		"without an end": "<3>without an end",
	} {
		if got := journallog.Error(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
