// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/egressd/egressd/internal/handover"
	"github.com/egressd/egressd/internal/learned"
)

// awaitHeirs waits for a daemon that wants to take over.
func (a *Agent) awaitHeirs(ctx context.Context, serve func(func() error)) error {
	ln, err := handover.Listen(filepath.Join(a.opts.StateDir, handover.SocketName))
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
				if a.prepareHeir(ctx, c) {
					return nil
				}
			case errors.Is(err, net.ErrClosed):
				return nil
			default:
				a.log.Warn("somebody reached for the takeover socket", "error", err)
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

// prepareHeir gives an heir duplicates of all that it needs, and waits until it
// is prepared. True: it is, and Run has it.
func (a *Agent) prepareHeir(ctx context.Context, c *handover.Conn) bool {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	c.SetDeadline(time.Now().Add(offerWait))
	m, err := a.offer(c)
	if err == nil {
		a.log.Info("another egressd prepares to take over", "version", m.Version)
		c.SetDeadline(time.Now().Add(prepareWait))
		var set *handover.Set
		_, set, err = c.Expect(handover.Quiesce)
		set.Close()
	}
	if !stop() || err != nil {
		c.Close()
		if ctx.Err() == nil {
			a.log.Warn("another egressd wanted to take over and did not; this one goes on", "version", m.Version, "error", err)
		}
		return false
	}
	c.SetDeadline(time.Time{})
	select {
	case a.heirs <- c:
		return true
	case <-ctx.Done():
		c.Close()
		return false
	}
}

func (a *Agent) offer(c *handover.Conn) (handover.Message, error) {
	m, set, err := c.Expect(handover.Hello)
	set.Close()
	if err != nil {
		return m, errors.Join(err, c.Send(handover.Message{Kind: handover.Withdrawn, Error: err.Error()}, nil))
	}
	all, err := a.descriptors()
	if err != nil {
		return m, err
	}
	defer all.Close()
	if err := errors.Join(all.Add(stateLock, a.lock), all.Add(pinLock, a.pinLock)); err != nil {
		return m, err
	}
	return m, c.Send(handover.Message{Kind: handover.Offer, Protocol: handover.Protocol, Version: a.opts.Version, Cgroup: a.workloads.own}, all)
}

// heir is the daemon that takes over from this one.
type heir struct {
	conn    *handover.Conn
	answers chan handover.Message // to what it was asked
	asking  chan struct{}         // has one token
	done    chan error            // nil: it serves; else it does not
	ended   chan struct{}
	quiet   chan struct{} // closed when it was told that nobody serves
}

// listen hears what the heir says until it hangs up.
func (h *heir) listen() {
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

// learn makes the heir learn an answer before it is given.
func (h *heir) learn(workload, name string, answers []learned.Answer) error {
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
	w := handover.Answer{Workload: workload, Name: name}
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

// handOver ends this daemon's shift for an heir that is prepared, and waits until
// that one serves. A heir that fails, or dies, leaves all to this one: s is the
// shift that goes on then, and nil when the heir has it all.
func (a *Agent) handOver(ctx context.Context, c *handover.Conn, s *shift, fail context.CancelCauseFunc) (*shift, *heir, error) {
	kept, err := a.descriptors()
	if err != nil {
		a.log.Error("nothing is handed over; this egressd goes on", "error", err)
		_ = c.Send(handover.Message{Kind: handover.Withdrawn, Error: err.Error()}, nil) // it sees the end
		c.Close()
		return s, nil, a.awaitHeirs(s.ctx, func(f func() error) { s.loops.Go(func() { _ = f() }) })
	}
	h := &heir{conn: c, answers: make(chan handover.Message, 1), asking: make(chan struct{}, 1),
		done: make(chan error, 1), ended: make(chan struct{}), quiet: make(chan struct{})}
	a.names.SetHeir(func(workload, name string, answers []learned.Answer) {
		if err := h.learn(workload, name, answers); err != nil {
			a.log.Debug("an answer was not learned by the egressd that takes over", "name", name, "error", err)
		}
	})
	go h.listen()
	a.endShift(s)
	err = a.saveNames()
	if err == nil {
		err = c.Send(handover.Message{Kind: handover.Quiet}, nil)
	}
	if err == nil {
		close(h.quiet)
		select {
		case err = <-h.done:
		case <-time.After(switchWait):
			err = errors.New("it took too long")
		}
	}
	if err == nil {
		kept.Close()
		_ = c.Send(handover.Message{Kind: handover.Released}, nil) // it serves in any case
		return nil, h, nil
	}
	a.log.Error("another egressd was to take over and did not; this one goes on", "error", err)
	_ = c.Send(handover.Message{Kind: handover.Withdrawn, Error: err.Error()}, nil) // if it lives
	a.names.SetHeir(nil)
	select {
	case <-h.ended: // it does nothing more
	case <-time.After(switchWait):
		// Two may not write the same tables, and it could wake up.
		if err := c.Kill(); err != nil {
			a.log.Error("the egressd that was to take over hangs, and could not be ended: DNS and proxied connections wait until it is", "error", err, "do", "kill -9 it")
		} else {
			a.log.Error("the egressd that was to take over hung, and was ended with SIGKILL")
		}
		<-h.ended
	}
	c.Close()
	s.answering.Wait()
	next, err := a.resume(ctx, kept, fail)
	return next, nil, err
}

// resume begins another shift with the sockets that were kept.
func (a *Agent) resume(ctx context.Context, kept *handover.Set, fail context.CancelCauseFunc) (*shift, error) {
	l, err := listen(ctx, a.log, a.opts.Interfaces, a.sockets.transparent, a.gates(), kept)
	if err == nil {
		err = a.sockets.replace(l)
	}
	if err == nil {
		a.devices.forget()
		a.inherited, a.sockets.from = kept, kept
		err = errors.Join(a.datapath.SetListeners(a.sockets.ports), a.datapath.Resume())
	}
	if err != nil {
		kept.Close()
		return nil, err
	}
	a.capture.again()
	return a.beginShift(ctx, fail)
}

// forget lets go of listeners that are closed.
func (d *deviceListeners) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.at)
}

// again makes the next look attach the programs.
func (c *capture) again() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attached = 0
}
