// SPDX-License-Identifier: Apache-2.0

// Package takeover is the conversation of two daemons of which one takes the place
// of the other without a gap: Holder is the one that runs, to the one that comes,
// and Heir the other way round.
package takeover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/agent/state"
	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/securedir"
)

// Names of the locks that go from one daemon to the next. They belong to the
// open files, so that whoever has a descriptor has the lock.
const (
	StateLock = "state-lock"
	PinLock   = "pin-lock"
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
	// stopWait is how long a daemon waits for one that is stopping, which takes its
	// drain time at most.
	stopWait = time.Minute
	// learnWait is how long an answer waits for the other daemon to learn it.
	learnWait = 2 * time.Second
)

// Incumbent is the daemon that this one takes over from.
type Incumbent struct {
	conn    *handover.Channel
	Cgroup  uint64 // its own, 0: not captured
	version string
	log     *slog.Logger
	// ended is closed when it has hung up; released has its last word about the
	// takeover: nil, or why it goes on.
	ended    chan struct{}
	released chan error
	// patience is how long it may take to let go, and kill ends it.
	patience time.Duration
	kill     func() error
}

// reach asks the daemon that runs on a state directory for its sockets and locks.
func reach(stateDir, version string, log *slog.Logger) (_ *Incumbent, _ *handover.SocketSet, err error) {
	conn, err := handover.Dial(filepath.Join(stateDir, handover.SocketName))
	if err != nil {
		return nil, nil, fmt.Errorf("%w on %s, because its version has no takeover or it is stopping; stop it and start again: %w", errUnreached, stateDir, err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	conn.SetDeadline(time.Now().Add(offerWait))
	_ = conn.Send(handover.Message{Kind: handover.Hello, Protocol: handover.Protocol, Version: version}, nil) // what is heard says more
	m, set, err := conn.Expect(handover.Offer)
	switch {
	case err != nil && (died(err) || errors.Is(err, os.ErrDeadlineExceeded)): // it stops, or stands still
		return nil, nil, fmt.Errorf("%w on %s, because it handed nothing over: %w", errUnreached, stateDir, err)
	case err != nil:
		return nil, nil, fmt.Errorf("take over from the egressd that runs on %s: %w", stateDir, err)
	}
	return &Incumbent{
		conn: conn, Cgroup: m.Cgroup, version: m.Version, log: log, ended: make(chan struct{}), released: make(chan error, 1),
		patience: 2 * switchWait, kill: conn.Kill,
	}, set, nil
}

// errUnreached says that a daemon runs that hands nothing over.
var errUnreached = errors.New("cannot take over from the egressd that runs")

// LockOrReach locks the state directory, or, where another daemon has it and a
// takeover is wanted, gets the lock and all else from that one. One that is stopping
// hands nothing over any more: its end is waited for, because a start that failed
// would have to be made again, and nobody would serve until then.
func LockOrReach(ctx context.Context, stateDir, version string, wanted bool, log *slog.Logger) (lock *os.File, h *Incumbent, set *handover.SocketSet, err error) {
	try, told := state.Lock, false
	if wanted {
		try = state.TryLock // one that lives is asked at once
	}
	for until := time.Now().Add(stopWait); ; try = state.Lock {
		if lock, err = try(stateDir); !errors.Is(err, state.ErrRuns) {
			return lock, nil, nil, err
		}
		if !wanted {
			return nil, nil, nil, fmt.Errorf("%w; --takeover takes its place without a gap", err)
		}
		if h, set, err = reach(stateDir, version, log); err == nil {
			break
		}
		if !errors.Is(err, errUnreached) || time.Now().After(until) {
			return nil, nil, nil, err
		}
		if ctx.Err() != nil {
			return nil, nil, nil, errors.Join(err, ctx.Err())
		}
		if !told {
			told = true
			log.Warn("the egressd that runs cannot be reached, as when it stops; this one starts when it has ended", "within", stopWait, "error", err)
		}
	}
	lock = set.File(StateLock, filepath.Join(stateDir, state.LockFile))
	if lock == nil || !securedir.IsAt(lock, lock.Name()) {
		set.Close()
		return nil, nil, nil, errors.Join(fmt.Errorf("the egressd that runs on %s did not hand over the directory's lock", stateDir), h.conn.Close())
	}
	return lock, h, set, nil
}

// Quiesce makes the daemon before stop. From then on what arrives waits in the
// sockets, until this one serves or that one goes on. learn is called for each
// answer that the other one is about to give.
func (h *Incumbent) Quiesce(learn func(handover.LearnedAnswer) error) error {
	h.conn.SetDeadline(time.Now().Add(switchWait))
	err := h.conn.Send(handover.Message{Kind: handover.Quiesce}, nil)
	if err == nil {
		var set *handover.SocketSet
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
		h.log.Warn("the other egressd ended during the takeover; this one goes on with its sockets", "error", err)
		close(h.ended)
		h.released <- nil
	default:
		go h.listen(learn)
	}
	return nil
}

// died says whether the other end of a connection is gone.
func died(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// listen learns what the daemon before answers, until that hangs up.
func (h *Incumbent) listen(learn func(handover.LearnedAnswer) error) {
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
			if err := learn(*m.Answer); err != nil {
				answer.Error = err.Error()
			}
			_ = h.conn.Send(answer, nil) // it is gone, then
		}
	}
}

// Settle tells the daemon before that this one's programs are in force,
// and hears whether it agrees. One that stands still is killed: when it went on it
// could read that all is this one's, which had given up, and then nobody would serve.
func (h *Incumbent) Settle() error {
	_ = h.conn.Send(handover.Message{Kind: handover.Done}, nil) // what comes back, or the end, says more
	select {
	case err := <-h.released:
		if err == nil {
			h.log.Info("taken over", "from", h.version)
		}
		return err
	case <-time.After(h.patience):
	}
	select {
	case err := <-h.released: // this one stood still
		return err
	default:
	}
	if err := h.kill(); err != nil {
		return fmt.Errorf("the egressd that runs did not let go of what it handed over, and could not be killed: %w", err)
	}
	<-h.ended
	h.log.Error("the egressd that ran did not answer when this one had taken over, and was killed; what was open in it is cut", "from", h.version)
	return nil
}

// Leave hangs up, and returns when the other one has as well. Before Settle that one
// goes on then.
func (h *Incumbent) Leave() {
	h.conn.Close()
	<-h.ended
}

// Close hangs up.
func (h *Incumbent) Close() error { return h.conn.Close() }

// Ended is closed when the daemon before has hung up.
func (h *Incumbent) Ended() <-chan struct{} { return h.ended }

// Version is that of the daemon before.
func (h *Incumbent) Version() string { return h.version }
