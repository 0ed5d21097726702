// SPDX-License-Identifier: Apache-2.0

// Package loglevel has the levels of a log, which change while it is written: one of
// all, and of each scope that has one of its own.
package loglevel

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
)

// Inherit as the level of a scope is that of all.
const Inherit = "inherit"

// Levels are the levels of a log. Use New.
type Levels struct {
	all    slog.LevelVar
	scopes map[string]*scope // fixed
}

// scope is a part of the program. Its level is own, unless that is nil.
type scope struct {
	own atomic.Pointer[slog.Level]
	all *slog.LevelVar
}

func (s *scope) Level() slog.Level {
	if l := s.own.Load(); l != nil {
		return *l
	}
	return s.all.Level()
}

// New makes Levels that are all level.
func New(level slog.Level, scopes ...string) *Levels {
	l := &Levels{scopes: map[string]*scope{}}
	l.all.Set(level)
	for _, name := range scopes {
		l.scopes[name] = &scope{all: &l.all}
	}
	return l
}

// Logger makes a log of a handler that takes every level.
func (l *Levels) Logger(h slog.Handler) *slog.Logger {
	return slog.New(&handler{Handler: h, of: l, level: &l.all})
}

// Scope is a log's part for a scope. A log that Levels did not make, and a scope that
// they do not know, have none: it is the log itself. nil stays nil.
func Scope(log *slog.Logger, name string) *slog.Logger {
	if log == nil {
		return nil
	}
	h, ok := log.Handler().(*handler)
	if !ok || h.of.scopes[name] == nil {
		return log
	}
	return slog.New(&handler{Handler: h.Handler, of: h.of, level: h.of.scopes[name]})
}

// Parse reads a level.
func Parse(text string) (level slog.Level, err error) {
	if err := level.UnmarshalText([]byte(text)); err != nil {
		return 0, fmt.Errorf("a level is debug, info, warn or error, not %q", text)
	}
	return level, nil
}

// Set changes the level of a scope ("": of all, also of the scopes that inherit it).
func (l *Levels) Set(name, level string) error {
	s := l.scopes[name]
	if s == nil && name != "" {
		return fmt.Errorf("there is no scope %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(l.scopes)), ", "))
	}
	if s != nil && level == Inherit {
		s.own.Store(nil)
		return nil
	}
	parsed, err := Parse(level)
	switch {
	case err != nil:
		return err
	case s == nil:
		l.all.Set(parsed)
	default:
		s.own.Store(&parsed)
	}
	return nil
}

// All is the level of what has no scope, and of the scopes that inherit it.
const All = "default"

// List returns the levels by scope, that of all as All.
func (l *Levels) List() map[string]string {
	out := map[string]string{All: strings.ToLower(l.all.Level().String())}
	for name, s := range l.scopes {
		out[name] = strings.ToLower(s.Level().String())
	}
	return out
}

// handler passes on what its level lets pass.
type handler struct {
	slog.Handler
	of    *Levels
	level slog.Leveler
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{Handler: h.Handler.WithAttrs(attrs), of: h.of, level: h.level}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{Handler: h.Handler.WithGroup(name), of: h.of, level: h.level}
}
