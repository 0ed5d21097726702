// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/egressd/egressd/agent/lifecycle"
	"github.com/egressd/egressd/agent/shift"
	"github.com/egressd/egressd/agent/takeover"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/loader/bpffs"
	"github.com/egressd/egressd/policy"
)

// lockPins locks the pin directory, or takes the lock of the daemon that this one
// takes over from.
func (a *Agent) lockPins() error {
	var err error
	if a.holder == nil {
		a.pinLock, err = bpffs.LockDir(a.opts.PinDir)
		return err
	}
	if a.pinLock, err = bpffs.TakeLock(a.opts.PinDir, a.inherited.File(takeover.PinLock, a.opts.PinDir)); err != nil {
		return fmt.Errorf("the running egressd has its pins in another directory than %s; start with the same --pin-dir: %w", a.opts.PinDir, err)
	}
	return nil
}

// remember learns what the last run, or the daemon before, had learned, for the policies
// that workloads have in this one.
func (a *Agent) remember() (int, error) {
	today := a.control.Snapshot().ByWorkload()
	return a.remembered.Restore(func(workload string) (policy.PolicyID, bool) {
		id, ok := today[workload]
		return id, ok
	})
}

// quiesce makes the daemon before stop, and learns what that one had learned.
func (a *Agent) quiesce() error {
	if a.holder == nil {
		return nil
	}
	if err := a.holder.Quiesce(a.learnFrom); err != nil {
		return err
	}
	if n, err := a.remember(); err != nil {
		a.log.Warn("the addresses that the other egressd learned last could not be read; they are refused until their names are resolved again", "error", err)
	} else {
		a.log.Info("the other egressd has stopped accepting; new connections wait until this one is ready", "version", a.holder.Version(), "learned", n)
	}
	return nil
}

// learnFrom learns an answer that another daemon is about to give. Policies have
// other numbers there.
func (a *Agent) learnFrom(w handover.LearnedAnswer) error {
	for _, b := range a.workloads.All() {
		if b.Name == w.Workload {
			answers := make([]learned.Record, len(w.Addrs))
			for i, at := range w.Addrs {
				answers[i] = learned.Record{Addr: at.Addr, TTL: at.TTL}
			}
			return a.names.Learn(b.Policy, w.Workload, w.Name, answers)
		}
	}
	return fmt.Errorf("workload %q is not known", w.Workload)
}

// followHolder waits for the end of the daemon before, whose cgroup is exempt
// until then.
func (a *Agent) followHolder(ctx context.Context) {
	if a.holder == nil {
		return
	}
	select {
	case <-ctx.Done():
		return
	case <-a.holder.Ended():
	}
	a.workloads.EndedBefore()
	a.governor.Rebind()
}

// before is the cgroup of the daemon that this one takes over from.
func (a *Agent) before() uint64 {
	if a.holder == nil {
		return 0
	}
	return a.holder.Cgroup
}

// release gives up what one daemon has alone: another one has it now.
func (a *Agent) release() {
	a.letGo()
	a.log.Info("another egressd has taken over; this one exits when its connections have ended", "within", a.opts.DrainTime, "traffic", lifecycle.TrafficOn)
	if err := errors.Join(a.unlock(), a.datapath.CloseLinks()); err != nil {
		a.log.Warn("this egressd could not close its locks and links after the takeover; \"egressd unload\" detaches the programs only when this one has ended", "error", err)
	}
}

// unlock closes the locks; whoever has duplicates keeps them.
func (a *Agent) unlock() error {
	var errs []error
	if a.pinLock != nil {
		errs = append(errs, a.pinLock.Close())
		a.pinLock = nil
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
		a.lock = nil
	}
	return errors.Join(errs...)
}

// awaitHeirs waits for a daemon that wants to take over.
func (a *Agent) awaitHeirs(s *shift.Shift) error {
	return takeover.Await{
		Version: a.opts.Version, Cgroup: a.workloads.Own(), Prepared: a.heirs, Prepares: a.preparing.Store, Log: a.log,
		Descriptors: func() (*handover.SocketSet, error) {
			all, err := a.descriptors()
			if err != nil {
				return nil, err
			}
			if err := errors.Join(all.Add(takeover.StateLock, a.lock), all.Add(takeover.PinLock, a.pinLock)); err != nil {
				all.Close()
				return nil, err
			}
			return all, nil
		},
	}.Open(s.Context, a.opts.StateDir, s.Serve)
}

// handOver leaves everything to an heir that is prepared: s is the shift that goes on
// when that fails, and nil when the heir has it all.
func (a *Agent) handOver(ctx context.Context, c *handover.Channel, s *shift.Shift, fail context.CancelCauseFunc) (*shift.Shift, *takeover.Heir, error) {
	h, kept := takeover.Handover{
		Descriptors: a.descriptors, TellHeir: a.names.SetHeir, EndShift: func() { a.endShift(s) },
		Save: a.remembered.Save, Answered: s.WaitAnswered, Log: a.log,
	}.To(c)
	switch {
	case h != nil:
		return nil, h, nil
	case kept == nil:
		return s, nil, a.awaitHeirs(s)
	}
	next, err := a.resume(ctx, kept, fail)
	return next, nil, err
}

// resume begins another shift with the sockets that were kept.
func (a *Agent) resume(ctx context.Context, kept *handover.SocketSet, fail context.CancelCauseFunc) (*shift.Shift, error) {
	err := a.sockets.Reopen(ctx, kept)
	if err == nil {
		a.devices.Forget()
		a.inherited = kept
		err = errors.Join(a.datapath.SetListeners(a.sockets.Ports()), a.datapath.Resume())
	}
	if err != nil {
		kept.Close()
		return nil, err
	}
	a.capture.Again()
	return a.beginShift(ctx, fail)
}
