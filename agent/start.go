// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/egressd/egressd/agent/lifecycle"
	"github.com/egressd/egressd/agent/takeover"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/source"
)

// StartError says that the daemon did not start, and what traffic can do.
type StartError = lifecycle.StartError

// Serve runs a daemon: New, Run and Close. started is called when it is made.
// When it does not become ready the error is of NotStarted.
func Serve(ctx context.Context, o Options, started func(*Agent)) error {
	a, err := New(ctx, o)
	if err == nil {
		started(a)
		if err = errors.Join(a.Run(ctx, func() {}), a.Close()); a.begun.Succeeded() {
			return err
		}
	}
	if ctx.Err() != nil {
		return err // it was told to end
	}
	return NotStarted(o, err)
}

// Stay waits, where Serve has ended well, until ctx is done, or until the daemon that had
// taken over has ended and the kernel part is at work. True: nobody serves.
func Stay(ctx context.Context, o Options) bool {
	return takeover.Stay(ctx, o.StateDir, func() bool { return lifecycle.AtWork(o.PinDir) })
}

// NotStarted makes a StartError of an error with which a start ended, denies
// everything if the options ask for that and nothing is held, and logs what all that
// means and what to do. Nil stays nil, and so does that another egressd runs.
func NotStarted(o Options, err error) error {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var deny func() error
	if o.LockOnFailure {
		deny = func() error { return lock(o) }
	}
	return lifecycle.NotStarted(err, func() string { return lifecycle.WithoutDaemon(o.PinDir) }, deny, log)
}

// lock denies everything to what o captures, for good: nothing is allowed but
// loopback, the node's own addresses, and answers to who connected from outside. A
// start that succeeds, or Unload, ends it.
func lock(o Options) (err error) {
	if o.Mode != policy.Enforce {
		return fmt.Errorf("mode %s denies nothing", o.Mode)
	}
	o.locks = true
	o.Allow, o.Config, o.LastGood, o.GatewaySelector, o.Kubernetes = source.Allow{}, nil, "", nil, nil
	o.Log = slog.New(slog.DiscardHandler) // that of a start would be about another one
	a, err := New(context.Background(), o)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.rollBack())
		}
		err = errors.Join(err, a.Close())
	}()
	if err := a.governor.Begin(a.control.Snapshot()); err != nil {
		return err
	}
	if err := a.datapath.MarkLocked(); err != nil {
		return err
	}
	a.begun.Succeed()
	return nil
}
