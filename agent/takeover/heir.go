// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
)

// Await waits for daemons that want to take over, until ctx is done or one is
// prepared: prepared gets its connection.
type Await struct {
	// Version is this daemon's, Cgroup the id of its cgroup, 0 where that is not
	// captured.
	Version string
	Cgroup  uint64
	// Descriptors duplicates all that an heir needs.
	Descriptors func() (*handover.SocketSet, error)
	Prepared    chan<- *handover.Channel
	// Prepares is told when a daemon begins to prepare, and when it does not any more:
	// it has failed, or Prepared has it.
	Prepares func(bool)
	Log      *slog.Logger
}

// Open listens in the state directory. serve is given the loop to run.
func (a Await) Open(ctx context.Context, stateDir string, serve func(func() error)) error {
	ln, err := handover.Listen(filepath.Join(stateDir, handover.SocketName))
	if err != nil {
		return fmt.Errorf("open the takeover socket: %w", err)
	}
	serve(func() error {
		stop := context.AfterFunc(ctx, func() { ln.Close() })
		defer stop()
		defer ln.Close()
		for ctx.Err() == nil {
			c, err := ln.Accept()
			switch {
			case err == nil:
				if a.prepare(ctx, c) {
					return nil
				}
			case errors.Is(err, net.ErrClosed):
				return nil
			default:
				a.Log.Warn("a connection to the takeover socket was refused", "error", err)
				if !sleep(ctx, time.Second) {
					return nil
				}
			}
		}
		return nil
	})
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// prepare gives an heir duplicates of all that it needs, and waits until it
// is prepared. True: it is, and Prepared has it.
func (a Await) prepare(ctx context.Context, c *handover.Channel) bool {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	a.Prepares(true)
	defer a.Prepares(false)
	c.SetDeadline(time.Now().Add(offerWait))
	m, err := a.offer(c)
	if err == nil {
		a.Log.Info("another egressd prepares to take over", "version", m.Version)
		c.SetDeadline(time.Now().Add(prepareWait))
		var set *handover.SocketSet
		_, set, err = c.Expect(handover.Quiesce)
		set.Close()
	}
	if !stop() || err != nil {
		c.Close()
		if ctx.Err() == nil {
			a.Log.Warn("another egressd failed to take over; this one goes on serving", "version", m.Version, "error", err)
		}
		return false
	}
	c.SetDeadline(time.Time{})
	select {
	case a.Prepared <- c:
		return true
	case <-ctx.Done():
		c.Close()
		return false
	}
}

func (a Await) offer(c *handover.Channel) (handover.Message, error) {
	m, set, err := c.Expect(handover.Hello)
	set.Close()
	if err != nil {
		return m, errors.Join(err, c.Send(handover.Message{Kind: handover.Withdrawn, Error: err.Error()}, nil))
	}
	all, err := a.Descriptors()
	if err != nil {
		return m, err
	}
	defer all.Close()
	return m, c.Send(handover.Message{Kind: handover.Offer, Protocol: handover.Protocol, Version: a.Version, Cgroup: a.Cgroup}, all)
}

// Heir is the daemon that takes over from this one.
type Heir struct {
	conn    *handover.Channel
	answers chan handover.Message // to what it was asked
	asking  chan struct{}         // has one token
	done    chan error            // nil: it serves; else it does not
	ended   chan struct{}
	quiet   chan struct{} // closed when it was told that nobody serves
	log     *slog.Logger
}

// NewHeir listens to an heir that is prepared.
func NewHeir(c *handover.Channel, log *slog.Logger) *Heir {
	h := &Heir{conn: c, answers: make(chan handover.Message, 1), asking: make(chan struct{}, 1),
		done: make(chan error, 1), ended: make(chan struct{}), quiet: make(chan struct{}), log: log}
	go h.listen()
	return h
}

// listen hears what the heir says until it hangs up.
func (h *Heir) listen() {
	defer close(h.ended)
	for {
		m, set, err := h.conn.Receive()
		set.Close()
		switch {
		case err != nil:
			select {
			case h.done <- fmt.Errorf("it hung up: %w", err):
			default:
			}
			return
		case m.Kind == handover.Done:
			select {
			case h.done <- nil:
			default:
			}
		case m.Kind == handover.Learned:
			select {
			case h.answers <- m:
			default: // nobody waits any more
			}
		}
	}
}

// Learn makes the heir learn an answer before it is given.
func (h *Heir) Learn(workload, name string, answers []learned.Record) error {
	select {
	case <-h.quiet:
	case <-h.ended:
		return errors.New("it is gone")
	}
	h.asking <- struct{}{}
	defer func() { <-h.asking }()
	select {
	case <-h.answers: // one that came too late
	default:
	}
	w := handover.LearnedAnswer{Workload: workload, Name: name}
	for _, a := range answers {
		w.Addrs = append(w.Addrs, handover.Address{Addr: a.Addr, TTL: a.TTL})
	}
	if err := h.conn.Send(handover.Message{Kind: handover.Learn, Answer: &w}, nil); err != nil {
		return err
	}
	select {
	case m := <-h.answers:
		if m.Error != "" {
			return errors.New(m.Error)
		}
		return nil
	case <-h.ended:
		return errors.New("it is gone")
	case <-time.After(learnWait):
		return errors.New("it does not answer")
	}
}

// Serve tells the heir that nobody serves, and waits until it does. An error says
// that it does not; Withdraw must follow.
func (h *Heir) Serve() error {
	if err := h.conn.Send(handover.Message{Kind: handover.Quiet}, nil); err != nil {
		return err
	}
	close(h.quiet)
	select {
	case err := <-h.done:
		return err
	case <-time.After(switchWait):
		return errors.New("it took too long")
	}
}

// Release lets the heir have everything.
func (h *Heir) Release() {
	_ = h.conn.Send(handover.Message{Kind: handover.Released}, nil) // it serves in any case
}

// Leave hangs up, and returns when the heir has heard it.
func (h *Heir) Leave() {
	h.conn.Close()
	<-h.ended
}

// Withdraw tells the heir that it gets nothing, and returns when it does nothing
// more: two may not write the same tables.
func (h *Heir) Withdraw(why error) {
	_ = h.conn.Send(handover.Message{Kind: handover.Withdrawn, Error: why.Error()}, nil) // if it lives
	select {
	case <-h.ended: // it does nothing more
	case <-time.After(switchWait):
		// It could wake up.
		if err := h.conn.Kill(); err != nil {
			h.log.Error("the egressd that was to take over hangs, and could not be killed; DNS and proxied connections wait until it is", "error", err, "do", "kill -9 it")
		} else {
			h.log.Error("the egressd that was to take over did not answer, and was killed; this one goes on serving")
		}
		<-h.ended
	}
	h.conn.Close()
}
