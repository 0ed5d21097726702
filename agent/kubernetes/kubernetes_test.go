// SPDX-License-Identifier: Apache-2.0

package kubernetes

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/agent/control"
)

var errWaits = errors.New("services are missing")

// server is an API server of which the test says what it has told.
type server struct {
	Informer
	mu      sync.Mutex
	changed func()
	// synced is from which Await on all has been read.
	synced, awaited int
	onAwait         func()
}

func (s *server) Run(ctx context.Context, changed func()) error {
	s.mu.Lock()
	s.changed = changed
	s.mu.Unlock()
	<-ctx.Done()
	return ctx.Err()
}

// Again tells, once it runs.
func (s *server) Again() {
	for {
		s.mu.Lock()
		f := s.changed
		s.mu.Unlock()
		if f != nil {
			f()
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *server) Await(context.Context, time.Duration) error {
	if s.awaited++; s.onAwait != nil {
		s.onAwait()
	}
	if s.synced == 0 || s.awaited < s.synced {
		return errWaits
	}
	return nil
}

// TestFirst: a start waits as long as a policy of a part of the objects is all that
// there could be; it goes on with the last good one, and does not wait where another
// daemon serves.
func TestFirst(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		what      string
		synced    int
		takesOver bool
		read      func(synced bool) error
		awaited   int
		want      []error // all that it has; none: it is well
	}{
		{"all told at once", 1, false, func(bool) error { return nil }, 1, nil},
		{"told at the third look", 3, false, func(synced bool) error {
			if synced {
				return nil
			}
			return control.ErrUnsynced
		}, 3, nil},
		{"never told, and a last good policy", 0, false, func(bool) error { return nil }, 1, nil},
		{"a policy that is refused", 1, false, func(bool) error { return refused }, 1, []error{refused}},
		{"refused, and not all is told", 0, false, func(bool) error { return refused }, 1, []error{refused, errWaits}},
		{"it would take over", 0, true, func(bool) error { return control.ErrUnsynced }, 1, []error{control.ErrUnsynced, errWaits}},
	} {
		var said strings.Builder
		s := &server{synced: c.synced}
		k := &APIServer{Informer: s, log: slog.New(slog.NewTextHandler(&said, nil))}
		_, err := k.First(t.Context(), c.takesOver, func() string { return "all is shut" }, func() (control.Loaded, error) {
			return control.Loaded{}, c.read(s.synced > 0 && s.awaited >= s.synced)
		})
		if (err == nil) != (c.want == nil) || s.awaited != c.awaited {
			t.Errorf("%s: %v after %d looks", c.what, err, s.awaited)
		}
		for _, want := range c.want {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v has no %q", c.what, err, want)
			}
		}
		if n := strings.Count(said.String(), "all is shut"); n != c.awaited-1 {
			t.Errorf("%s: said %d times that it waits: %s", c.what, n, said.String())
		}
	}
}

// TestFirstEnds: a start that is told to end does not wait on.
func TestFirstEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := &server{onAwait: cancel}
	k := &APIServer{Informer: s, log: slog.New(slog.DiscardHandler)}
	_, err := k.First(ctx, false, func() string { return "" }, func() (control.Loaded, error) { return control.Loaded{}, control.ErrUnsynced })
	if !errors.Is(err, context.Canceled) || s.awaited != 1 {
		t.Errorf("%v after %d looks", err, s.awaited)
	}
}

// TestChanges: nothing is applied before the daemon is ready for it, and what came
// before that is applied then; when End has returned nothing is any more.
func TestChanges(t *testing.T) {
	s := &server{}
	applied := 0
	k := follow(s, func() { applied++ }, slog.New(slog.DiscardHandler))
	if s.Again(); applied != 0 {
		t.Error("a change was applied before the first policy was in force")
	}
	if k.Begin(); applied != 1 {
		t.Errorf("what came before Begin was applied %d times", applied)
	}
	if s.Again(); applied != 2 {
		t.Errorf("applied %d changes", applied)
	}
	if k.Objects() == nil {
		t.Error("no objects for control")
	}
	k.End()
}

// TestNone: without an API server a start reads the files and waits for nothing.
func TestNone(t *testing.T) {
	var k *APIServer
	read := errors.New("read")
	if _, err := k.First(t.Context(), false, nil, func() (control.Loaded, error) { return control.Loaded{}, read }); !errors.Is(err, read) {
		t.Error(err)
	}
	k.Begin()
	k.End()
	if k.Objects() != nil || k.Report() != nil {
		t.Error("there are objects, or there is a report, of no API server")
	}
}
