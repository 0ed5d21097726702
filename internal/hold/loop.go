// SPDX-License-Identifier: Apache-2.0

package hold

import (
	"context"
	"slices"
	"time"

	"github.com/egressd/egressd/internal/capacity"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/foreign"
)

const (
	// holdInterval is how long what somebody takes out of the kernel stays out.
	holdInterval = time.Second
	// lastingEach says at which looks the node's mounts are read as well.
	lastingEach = 10
)

// Datapath is the kernel's side, which is held.
type Datapath interface {
	// Hold puts back what is missing. Lasting says whether the pins outlive the
	// daemon, and Foreign who else is at the hooks.
	Hold(loader.HoldOptions) []loader.Loss
	Lasting() []loader.Loss
	Foreign() []foreign.Program
}

// Loop looks again and again whether the kernel still has what egressd put there, and
// puts back what is missing.
type Loop struct {
	Keeper   *Keeper
	Datapath Datapath
	Options  loader.HoldOptions
	// Rehooked is called when programs were put back at their hooks.
	Rehooked func()

	spent func() bool // nil: capacity.Spent
	// looks is how often it has looked. Whether the pins last stays as it was between
	// two looks at that.
	looks      int
	notLasting []loader.Loss
}

// Run looks until ctx ends.
func (l *Loop) Run(ctx context.Context) {
	if l.spent == nil {
		l.spent = capacity.Spent
	}
	tick := time.NewTicker(holdInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.look(ctx)
		}
	}
}

func (l *Loop) look(ctx context.Context) {
	n := l.looks
	l.looks++
	// Who cannot look knows of nothing that is missing; the probe says that there
	// are no descriptors.
	if l.spent() {
		return
	}
	faults := l.Datapath.Hold(l.Options)
	if n%lastingEach == 0 && !l.Options.Volatile {
		l.notLasting = l.Datapath.Lasting()
	}
	if ctx.Err() != nil {
		return // listeners close while egressd ends
	}
	if l.spent() || slices.ContainsFunc(faults, func(f loader.Loss) bool { return capacity.NoDescriptors(f.Err) }) {
		return
	}
	if l.Keeper.Saw(append(faults, l.notLasting...)) {
		l.Rehooked()
	}
	l.Keeper.SawForeign(l.Datapath.Foreign())
}
