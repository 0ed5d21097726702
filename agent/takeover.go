// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/securedir"
	"github.com/egressd/egressd/loader"
)

// Names of the locks that go from one daemon to the next. They belong to the
// open files, so that whoever has a descriptor has the lock.
const (
	stateLock = "state-lock"
	pinLock   = "pin-lock"
)

// Bounds of the steps of a takeover.
const (
	// offerWait is how long the daemon that runs may take to answer.
	offerWait = 10 * time.Second
	// prepareWait is how long an heir may take to read a policy and load programs.
	prepareWait = 2 * time.Minute
	// switchWait is how long a switch may take, during which what arrives waits in
	// the sockets.
	switchWait = 10 * time.Second
	// learnWait is how long an answer waits for the other daemon to learn it.
	learnWait = 2 * time.Second
)

// holder is the daemon that this one takes over from.
type holder struct {
	conn    *handover.Conn
	cgroup  uint64 // its own, 0: not captured
	version string
	// ended is closed when it has hung up; released has its last word about the
	// takeover: nil, or why it goes on.
	ended    chan struct{}
	released chan error
}

// reach asks the daemon that runs on a state directory for its sockets and locks.
func reach(stateDir, version string) (_ *holder, _ *handover.Set, err error) {
	conn, err := handover.Dial(filepath.Join(stateDir, handover.SocketName))
	if err != nil {
		return nil, nil, fmt.Errorf("the egressd that runs on %s can't be taken over from, as it is of a version that hands nothing over, or is about to end; end it, and start again: %w", stateDir, err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	conn.SetDeadline(time.Now().Add(offerWait))
	err = conn.Send(handover.Message{Kind: handover.Hello, Protocol: handover.Protocol, Version: version}, nil)
	if err != nil {
		return nil, nil, err
	}
	m, set, err := conn.Expect(handover.Offer)
	if err != nil {
		return nil, nil, fmt.Errorf("take over from the egressd that runs on %s: %w", stateDir, err)
	}
	return &holder{conn: conn, cgroup: m.Cgroup, version: m.Version, ended: make(chan struct{}), released: make(chan error, 1)}, set, nil
}

// lockOrReach locks the state directory, or, where another daemon has it and a
// takeover is wanted, gets the lock and all else from that one.
func lockOrReach(o Options) (lock *os.File, h *holder, set *handover.Set, err error) {
	lock, err = lockState(o.StateDir)
	if !errors.Is(err, errRuns) {
		return lock, nil, nil, err
	}
	if !o.Takeover {
		return nil, nil, nil, fmt.Errorf("%w; --takeover takes its place without a gap", err)
	}
	if h, set, err = reach(o.StateDir, o.Version); err != nil {
		// It may have ended just now.
		if lock, lerr := lockState(o.StateDir); lerr == nil {
			return lock, nil, nil, nil
		}
		return nil, nil, nil, err
	}
	lock = set.File(stateLock, filepath.Join(o.StateDir, LockFile))
	if lock == nil || !securedir.IsAt(lock, lock.Name()) {
		set.Close()
		return nil, nil, nil, errors.Join(fmt.Errorf("the egressd that runs on %s did not hand over the directory's lock", o.StateDir), h.conn.Close())
	}
	return lock, h, set, nil
}

// lockPins locks the pin directory, or takes the lock of the daemon that this one
// takes over from.
func (a *Agent) lockPins() error {
	var err error
	if a.holder == nil {
		a.pinLock, err = loader.LockPins(a.opts.PinDir)
		return err
	}
	if a.pinLock, err = loader.TakePinLock(a.opts.PinDir, a.inherited.File(pinLock, a.opts.PinDir)); err != nil {
		return fmt.Errorf("the egressd that runs has its pins elsewhere than in %s; give --pin-dir as it has it: %w", a.opts.PinDir, err)
	}
	return nil
}

// quiesce makes the daemon before stop. From then on what arrives waits in the
// sockets, until this one serves or that one goes on.
func (a *Agent) quiesce() error {
	h := a.holder
	if h == nil {
		return nil
	}
	h.conn.SetDeadline(time.Now().Add(switchWait))
	err := h.conn.Send(handover.Message{Kind: handover.Quiesce}, nil)
	if err == nil {
		var set *handover.Set
		_, set, err = h.conn.Expect(handover.Quiet)
		set.Close()
	}
	h.conn.SetDeadline(time.Time{})
	switch {
	case err != nil && !died(err):
		close(h.ended)
		return err
	case err != nil:
		// It is dead: its locks and sockets are this one's alone.
		a.log.Warn("the egressd that was taken over from ended meanwhile; this one goes on with its sockets", "error", err)
		close(h.ended)
		h.released <- nil
	default:
		go a.listenTo(h)
	}
	if n, err := a.restoreNames(); err != nil {
		a.log.Warn("the addresses that the other egressd learned last are not known here", "error", err)
	} else {
		a.log.Info("the egressd before has stopped; what arrives waits", "version", h.version, "learned", n)
	}
	return nil
}

// died says whether the other end of a connection is gone.
func died(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// listenTo learns what the daemon before answers, until that hangs up.
func (a *Agent) listenTo(h *holder) {
	defer close(h.ended)
	for {
		m, set, err := h.conn.Receive()
		set.Close()
		switch {
		case err != nil:
			if died(err) {
				err = nil // it goes on without
			}
			select {
			case h.released <- err:
			default:
			}
			return
		case m.Kind == handover.Released:
			h.released <- nil
		case m.Kind == handover.Withdrawn:
			h.released <- fmt.Errorf("%w: %s", handover.ErrWithdrawn, m.Error)
		case m.Kind == handover.Learn && m.Answer != nil:
			answer := handover.Message{Kind: handover.Learned}
			if err := a.learnFrom(*m.Answer); err != nil {
				answer.Error = err.Error()
			}
			_ = h.conn.Send(answer, nil) // it is gone, then
		}
	}
}

// learnFrom learns an answer that another daemon is about to give. Policies have
// other numbers there.
func (a *Agent) learnFrom(w handover.Answer) error {
	for _, b := range a.workloads.all() {
		if b.name == w.Workload {
			answers := make([]learned.Answer, len(w.Addrs))
			for i, at := range w.Addrs {
				answers[i] = learned.Answer{Addr: at.Addr, TTL: at.TTL}
			}
			return a.names.Learn(b.Policy, w.Workload, w.Name, answers)
		}
	}
	return fmt.Errorf("workload %q is not known", w.Workload)
}

// settleTakeover tells the daemon before that this one's programs are in force,
// and hears whether it agrees.
func (a *Agent) settleTakeover() error {
	h := a.holder
	if h == nil {
		return nil
	}
	_ = h.conn.Send(handover.Message{Kind: handover.Done}, nil) // what comes back, or the end, says more
	select {
	case err := <-h.released:
		if err == nil {
			a.log.Info("taken over", "from", h.version)
		}
		return err
	case <-time.After(2 * switchWait):
		return errors.New("the egressd that runs did not let go of what it handed over")
	}
}

// leaveHolder hangs up. Before settleTakeover the daemon before goes on then.
func (a *Agent) leaveHolder() {
	if a.holder != nil {
		a.holder.conn.Close()
		<-a.holder.ended
	}
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
	case <-a.holder.ended:
	}
	a.workloads.mu.Lock()
	a.workloads.before = 0
	a.workloads.mu.Unlock()
	a.rebind()
}

// before is the cgroup of the daemon that this one takes over from.
func (a *Agent) before() uint64 {
	if a.holder == nil {
		return 0
	}
	return a.holder.cgroup
}

// release gives up what one daemon has alone: another one has it now.
func (a *Agent) release() {
	a.letGo()
	a.log.Info("another egressd has taken over; this one ends when its connections have", "within", a.opts.DrainTime, "traffic", trafficOn)
	if err := errors.Join(a.unlock(), a.datapath.CloseLinks()); err != nil {
		a.log.Warn("what the other egressd has now could not be let go of; \"egressd unload\" opens only when this one has ended", "error", err)
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
