// SPDX-License-Identifier: Apache-2.0

// Package shift is a time in which a daemon serves, and its end: what is open may go
// on for a while.
package shift

import (
	"context"
	"sync"
)

// Shift is a time in which a daemon serves: its loops accept, read, and write what
// daemons share. What was accepted outlives it, and so does what follows the policy's
// files, for that is what connections are judged by.
type Shift struct {
	// Context ends with the shift.
	Context context.Context
	cancel  context.CancelFunc
	fail    context.CancelCauseFunc
	loops   sync.WaitGroup
	// answering are DNS queries under way.
	answering sync.WaitGroup
	// inForce is closed when the programs are in force.
	inForce chan struct{}
}

// Begin begins a shift, which outlives ctx. fail is called when a loop ends with an
// error before the shift does.
func Begin(ctx context.Context, fail context.CancelCauseFunc) *Shift {
	s := &Shift{fail: fail, inForce: make(chan struct{})}
	s.Context, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// Serve runs a loop, for which the end of the shift waits.
func (s *Shift) Serve(loop func() error) { s.loops.Go(func() { s.ended(loop()) }) }

// Accept is Serve for what workloads reach. What arrives before the programs are in
// force waits in its socket: an answer is learned in the tables that count.
func (s *Shift) Accept(loop func() error) {
	s.Serve(func() error { s.wait(); return loop() })
}

// Answer is Accept for a loop that may go on when the shift has ended.
func (s *Shift) Answer(loop func() error) {
	s.answering.Go(func() { s.wait(); s.ended(loop()) })
}

// ended takes the end of a loop.
func (s *Shift) ended(err error) {
	if err != nil && s.Context.Err() == nil {
		s.fail(err)
	}
}

// wait waits until the programs are in force, or the shift is over.
func (s *Shift) wait() {
	select {
	case <-s.inForce:
	case <-s.Context.Done():
	}
}

// InForce says that the programs are in force.
func (s *Shift) InForce() { close(s.inForce) }

// Stop ends the loops, and Wait returns when they have ended.
func (s *Shift) Stop() { s.cancel() }

// Wait is said at Stop.
func (s *Shift) Wait() { s.loops.Wait() }

// WaitAnswered returns when the loops of Answer have ended, too.
func (s *Shift) WaitAnswered() { s.answering.Wait() }
