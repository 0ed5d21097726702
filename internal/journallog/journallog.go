// SPDX-License-Identifier: Apache-2.0

// Package journallog writes a log as the journal of systemd takes it from standard
// error: each line begins with its priority, as in "<4>" (sd-daemon(3)), and has no time
// and no level of its own, since the journal keeps both.
package journallog

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"time"
)

// Priorities of syslog(3), of which the journal makes its PRIORITY field.
const (
	errorPriority = "<3>"
	warnPriority  = "<4>"
	infoPriority  = "<6>"
	debugPriority = "<7>"
)

// Handler is a slog.Handler. Use New.
type Handler struct {
	// One for each priority: it formats a line and puts the priority before it.
	failure, warn, info, debug slog.Handler
}

// New makes a Handler that writes each line with one call of w.Write. Lines that are less
// than level are left out.
func New(w io.Writer, level slog.Leveler) *Handler {
	with := func(priority string) slog.Handler {
		return slog.NewTextHandler(&prefixer{w, priority}, &slog.HandlerOptions{Level: level, ReplaceAttr: withoutLevel})
	}
	return &Handler{with(errorPriority), with(warnPriority), with(infoPriority), with(debugPriority)}
}

// withoutLevel leaves out the level of the line, but not an attribute of that name.
func withoutLevel(groups []string, a slog.Attr) slog.Attr {
	if _, level := a.Value.Any().(slog.Level); level && len(groups) == 0 && a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	return a
}

// of chooses by level.
func (h *Handler) of(level slog.Level) slog.Handler {
	switch {
	case level >= slog.LevelError:
		return h.failure
	case level >= slog.LevelWarn:
		return h.warn
	case level >= slog.LevelInfo:
		return h.info
	}
	return h.debug
}

// Enabled says whether a line of the level is written.
func (h *Handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.of(level).Enabled(ctx, level)
}

// Handle writes a line. The error is that of the writer.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = time.Time{} // no time is written
	return h.of(r.Level).Handle(ctx, r)
}

// WithAttrs is the log with attributes in each line.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup is the log whose attributes are in a group.
func (h *Handler) WithGroup(name string) slog.Handler {
	return h.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (h *Handler) each(f func(slog.Handler) slog.Handler) *Handler {
	return &Handler{f(h.failure), f(h.warn), f(h.info), f(h.debug)}
}

// Error is text for people that says why the program failed, with the priority of an
// error before each of its lines.
func Error(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(errorPriority + line)
	}
	return b.String()
}

// prefixer puts a priority before each line that it is given.
type prefixer struct {
	w        io.Writer
	priority string
}

func (p *prefixer) Write(line []byte) (int, error) {
	n, err := p.w.Write(append([]byte(p.priority), line...))
	return max(0, n-len(p.priority)), err
}
