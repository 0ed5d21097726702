// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"context"
	"sync"
)

// life is how an exchange ends before its time. A context is there for those who
// need one: most exchanges do not.
type life struct {
	mu     sync.Mutex
	serial uint64 // of the exchange
	cause  error
	parent context.Context
	ctx    context.Context
	cancel context.CancelCauseFunc
	// alone: whoever ends parent ends this as well, so that the context needs no tie to
	// parent, which costs more than all else of it.
	alone bool
	// of is interrupted when it ends, but for the end in order.
	of interface{ interrupt() }
}

// begin begins the life of another exchange.
func (l *life) begin(parent context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serial++
	l.cause, l.parent, l.ctx, l.cancel = nil, parent, nil, nil
}

// context is one that ends with the exchange.
func (l *life) context() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx != nil {
		return l.ctx
	}
	from, cause := l.parent, l.cause
	if l.alone {
		if from = context.Background(); cause == nil && l.parent.Err() != nil {
			cause = context.Cause(l.parent)
		}
	}
	if l.ctx, l.cancel = context.WithCancelCause(from); cause != nil {
		l.cancel(cause)
	}
	return l.ctx
}

// why is why the exchange has ended; nil: it has not.
func (l *life) why() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil && l.parent.Err() != nil {
		return context.Cause(l.parent)
	}
	return l.cause
}

// now is the serial number of the exchange, for endIf.
func (l *life) now() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.serial
}

// end ends the exchange. The first cause stays.
func (l *life) end(cause error) { l.endIf(0, cause) }

// endIf ends the exchange with the serial number, unless another has begun.
func (l *life) endIf(serial uint64, cause error) {
	l.mu.Lock() // to the end: another exchange can't begin meanwhile
	defer l.mu.Unlock()
	if serial != 0 && serial != l.serial {
		return
	}
	first := l.cause == nil
	if first {
		l.cause = cause
		if l.cancel != nil {
			l.cancel(cause)
		}
	}
	switch {
	case cause == errDone: //nolint:errorlint // set here only
		l.ctx, l.cancel = nil, nil // whatever ended it
	case first:
		l.of.interrupt()
	}
}
