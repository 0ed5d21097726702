// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/foreign"
)

// kernel has lost what the test says.
type kernel struct {
	faults, notLasting []loader.Loss
	looks, mounts      int
	during             func() // a look
}

func (k *kernel) Hold(loader.HoldOptions) []loader.Loss {
	k.looks++
	if k.during != nil {
		k.during()
	}
	return k.faults
}

func (k *kernel) Lasting() []loader.Loss {
	k.mounts++
	return k.notLasting
}

func (k *kernel) Foreign() []foreign.Program { return []foreign.Program{{Hook: "connect4", ID: 7}} }

func newLoop(k *kernel) (l *Loop, rehooked *int) {
	rehooked = new(int)
	return &Loop{
		Keeper: NewKeeper(slog.New(slog.DiscardHandler)), Datapath: k,
		Rehooked: func() { *rehooked++ }, spent: func() bool { return false },
	}, rehooked
}

// TestLook: a program that came back has what is open judged, one that did not makes
// egressd not ready, and so do pins that do not last, which are looked at less often.
func TestLook(t *testing.T) {
	hook := loader.Loss{Kind: loader.HookFault, What: "egd_connect4"}
	k := &kernel{faults: []loader.Loss{hook}}
	l, rehooked := newLoop(k)
	if l.look(t.Context()); *rehooked != 1 || l.Keeper.Err() != nil || len(l.Keeper.State().Foreign) != 1 {
		t.Errorf("put back: rehooked %d times, %v, foreign %v", *rehooked, l.Keeper.Err(), l.Keeper.State().Foreign)
	}
	hook.Err = errors.New("gone")
	k.faults, k.notLasting = []loader.Loss{hook}, []loader.Loss{{Kind: loader.PinFault, What: "pins", Err: errors.New("unmounted")}}
	if l.look(t.Context()); *rehooked != 1 || len(l.Keeper.State().Failures) != 1 {
		t.Errorf("missing: rehooked %d times, %v", *rehooked, l.Keeper.Err())
	}
	k.faults = nil
	for range lastingEach {
		l.look(t.Context())
	}
	if k.mounts != 2 || len(l.Keeper.State().Failures) != 1 || l.Keeper.State().Failures[0].Kind != loader.PinFault {
		t.Errorf("the mounts were read %d times in %d looks: %v", k.mounts, k.looks, l.Keeper.Err())
	}
	// Between two looks at the mounts it stays as it was.
	if l.look(t.Context()); k.mounts != 2 || l.Keeper.Err() == nil {
		t.Errorf("after %d looks at the mounts: %v", k.mounts, l.Keeper.Err())
	}
	k = &kernel{}
	l, _ = newLoop(k)
	l.Options.Volatile = true
	if l.look(t.Context()); k.mounts != 0 {
		t.Error("the operator has accepted that the pins do not last, and they were looked at")
	}
}

// TestLookWithoutDescriptors: who has no descriptor to look with knows of nothing that
// is missing, whether that is so before the look, in it, or for one thing alone.
func TestLookWithoutDescriptors(t *testing.T) {
	missing := loader.Loss{Kind: loader.HookFault, What: "egd_connect4", Err: errors.New("gone")}
	for what, set := range map[string]func(*kernel, *Loop){
		"before": func(_ *kernel, l *Loop) { l.spent = func() bool { return true } },
		"in it": func(k *kernel, l *Loop) {
			k.during = func() { l.spent = func() bool { return true } }
		},
		"one thing": func(k *kernel, _ *Loop) {
			k.faults = append(k.faults, loader.Loss{Kind: loader.PinFault, What: "pins", Err: fmt.Errorf("open: %w", unix.EMFILE)})
		},
	} {
		k := &kernel{faults: []loader.Loss{missing}}
		l, _ := newLoop(k)
		set(k, l)
		if l.look(t.Context()); l.Keeper.Err() != nil || len(l.Keeper.State().Foreign) > 0 {
			t.Errorf("%s: %v, foreign %v", what, l.Keeper.Err(), l.Keeper.State().Foreign)
		}
	}
}

// TestLookAtTheEnd: what closes while egressd ends is not missing.
func TestLookAtTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	k := &kernel{faults: []loader.Loss{{Kind: loader.ListenerFault, What: "proxy", Err: errors.New("closed")}}, during: cancel}
	l, _ := newLoop(k)
	if l.look(ctx); k.looks != 1 || l.Keeper.Err() != nil {
		t.Errorf("%d looks, %v", k.looks, l.Keeper.Err())
	}
	l.Run(ctx) // ends at once
}
