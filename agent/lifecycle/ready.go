// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"sync/atomic"
)

// Readiness says whether a daemon is ready: it serves, and nothing is missing. Make
// one with NewReadiness.
type Readiness struct {
	serves atomic.Bool
	lacks  []func() error
}

// errNotServing says that the daemon begins, or ends.
var errNotServing = errors.New("egressd is starting or stopping")

// NewReadiness makes the Readiness of a daemon that does not serve yet. Each of lacks
// is what may be missing while it serves; nil: it is not.
func NewReadiness(lacks ...func() error) *Readiness { return &Readiness{lacks: lacks} }

// Serves says that the daemon serves, or does not any more.
func (r *Readiness) Serves(yes bool) { r.serves.Store(yes) }

// Err is why it is not ready; nil: it is.
func (r *Readiness) Err() error {
	if !r.serves.Load() {
		return errNotServing
	}
	errs := make([]error, len(r.lacks))
	for i, lack := range r.lacks {
		errs[i] = lack()
	}
	return errors.Join(errs...)
}
