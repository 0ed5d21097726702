// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"path/filepath"
	"runtime/debug"

	"github.com/egressd/egressd/agent/exec"
	"github.com/egressd/egressd/agent/resolve"
	"github.com/egressd/egressd/explain"
	"github.com/egressd/egressd/explain/learn"
	"github.com/egressd/egressd/loader/telemetry"
)

// ExecOptions say what to run under which policy. Options.Cgroups, Workload,
// StateDir and PinDir are chosen by Exec.
type ExecOptions struct {
	Options
	Run exec.Options
	// Seen is told where the command went, when it has ended; nil: nobody asks.
	Seen func(learn.Recording)
}

// Exec runs a command in a fresh cgroup under the policy. It returns what exec.Run
// returns, and what was denied.
func Exec(ctx context.Context, o ExecOptions) (code int, denials explain.DenialSummary, err error) {
	o.Workload = "exec/" + filepath.Base(o.Run.Command[0])
	// Exec ends its command when it ends. If it is killed, the command holds
	// the mount namespace that they share, and with that the pins.
	o.VolatilePins = true
	o.Run.Prepare = func() {
		if err := resolve.Hide(resolve.Beside("/")); err != nil {
			o.Log.Warn("the resolver sockets could not be hidden from the command; names that it resolves through them are not learned, and their addresses are refused", "error", err)
		}
	}
	code, err = exec.Run(ctx, o.Run, func(p exec.Place) (exec.Gateway, error) {
		o.Cgroups, o.StateDir, o.PinDir = []string{p.Cgroup}, p.StateDir, p.PinDir
		if err := o.validate(); err != nil {
			return nil, errors.Join(err, p.Lock.Close())
		}
		// The command waits: what a start leaves behind is collected later.
		defer debug.SetGCPercent(debug.SetGCPercent(startGC))
		a, err := newAgent(ctx, o.Options, p.Lock, nil, nil, nil)
		if err != nil {
			return nil, err
		}
		return &gateway{a, &denials, o.Seen}, nil
	})
	return code, denials, err
}

// startGC is GOGC while a command waits for its gateway: a start makes about fifteen
// megabytes, which are collected once by it and not five times.
const startGC = 400

// gateway is an Agent that says what it denied.
type gateway struct {
	*Agent
	denials *explain.DenialSummary
	seen    func(learn.Recording)
}

// Run implements exec.Gateway.
func (g *gateway) Run(ctx context.Context, ready func()) error {
	started := false
	err := g.Agent.Run(ctx, func() { started = true; ready() })
	if started {
		*g.denials = g.denied()
		if counters, cerr := g.datapath.Counters(); cerr == nil {
			g.denials.Lost = counters[telemetry.CounterLost]
		}
		if g.seen != nil {
			seen, serr := g.Agent.seen()
			err = errors.Join(err, serr)
			g.seen(seen)
		}
	}
	return err
}
