// SPDX-License-Identifier: Apache-2.0

// Package govern brings what is captured under the policy: it has cgroups and
// interfaces bound to their workloads, the programs attached, and workloads change
// over from one policy to the next.
package govern

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/agent/workload"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/policy"
)

// Workloads binds cgroups to workloads; it is a workload.Binding.
type Workloads interface {
	// Bind binds by a snapshot; nil: by that of the time before.
	Bind(*policy.Snapshot) error
	// Shut takes from some what their policies do not know, until the next Bind.
	Shut(func(loader.WorkloadState) bool) error
}

// Interfaces are those that have workloads at their other end; they are iface.Guards.
type Interfaces interface {
	Begin() error
	Shut(func(loader.WorkloadState) bool) error
	UpdatePolicy()
}

// Capture makes the programs be where they belong; it is a workload.Capture.
type Capture interface {
	Hold(attach func(dir string) error) (fresh bool, err error)
}

// Earlier deals with what was open before the programs saw it; it is an
// earlier.Earlier.
type Earlier interface {
	End()
	TellFreed()
}

// Datapath is what is needed of the kernel's side.
type Datapath interface {
	SetReady(bool) error
	Attach(dir string) error
}

// Options of a Governor.
type Options struct {
	Workloads  Workloads
	Interfaces Interfaces
	Capture    Capture
	Earlier    Earlier
	Datapath   Datapath
	// Narrow knows the policies that are on their way into the tables.
	Narrow *control.Narrow
	Log    *slog.Logger
}

// Governor brings workloads under the policy, between Begin and End. It is a
// control.Target. Make one with New.
type Governor struct {
	o Options
	// captures says that the programs are attached, and by this daemon.
	captures atomic.Bool
	// mu is held while cgroups are looked for.
	mu     sync.Mutex
	failed error // of the last look for cgroups that came or went
}

// New makes a Governor that has not begun.
func New(o Options) *Governor { return &Governor{o: o} }

// Begin attaches the programs. From here on the workload is under policy. That there
// is nothing yet to attach them to is no error.
func (e *Governor) Begin(s *policy.Snapshot) error {
	if err := e.o.Workloads.Bind(s); err != nil {
		return err
	}
	e.captures.Store(true)
	if err := e.o.Datapath.SetReady(true); err != nil {
		return err
	}
	fresh, err := e.o.Capture.Hold(e.o.Datapath.Attach)
	if err != nil && !errors.Is(err, workload.ErrNotThere) {
		return err
	}
	if err := e.o.Interfaces.Begin(); err != nil {
		return err
	}
	if fresh {
		e.o.Earlier.End()
		e.o.Earlier.TellFreed()
	}
	return nil
}

// End has nothing bound any more: another daemon may be doing it. Who is at it may
// still be, until Wait returns.
func (e *Governor) End() { e.captures.Store(false) }

// Wait returns when nobody looks for cgroups any more who began before End. Changes of
// the policy are for the caller to wait for.
func (e *Governor) Wait() {
	e.mu.Lock()
	defer e.mu.Unlock()
}

// Bind looks for cgroups that came.
func (e *Governor) Bind() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.o.Workloads.Bind(nil)
}

// Rebind looks for cgroups that came or went.
func (e *Governor) Rebind() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.captures.Load() {
		return
	}
	err := e.o.Workloads.Bind(nil)
	if was := e.failed; err != nil && (was == nil || !control.SameCause(was, err)) {
		e.o.Log.Error("workload cgroups could not be resolved; new cgroups use the node's policy; egressd tries again every two seconds", "error", err)
	}
	e.failed = err
	if fresh, _ := e.o.Capture.Hold(e.o.Datapath.Attach); fresh { // an error is said there, and by the status
		e.o.Earlier.End()
	}
}

// Tighten lets nobody pass any more where the tables know nothing, unless the next
// policy does as well.
func (e *Governor) Tighten(c policy.Change) error {
	e.o.Narrow.Tighten(c)
	if !e.captures.Load() {
		return nil
	}
	shut := func(w loader.WorkloadState) bool { return w.AllowAny && control.Shuts(c, w.Policy) }
	return errors.Join(e.o.Workloads.Shut(shut), e.o.Interfaces.Shut(shut))
}

// Loosen lets workloads change over once they are captured.
func (e *Governor) Loosen(c policy.Change) error {
	e.o.Narrow.Loosen(c)
	if !e.captures.Load() {
		return nil
	}
	err := e.o.Workloads.Bind(c.Next)
	e.o.Interfaces.UpdatePolicy()
	return err
}
