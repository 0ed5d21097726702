// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"log/slog"

	"github.com/egressd/egressd/loader/bpffs"
)

// StartError says that the daemon did not start, and what traffic can do.
type StartError struct {
	Err error
	// Held says that traffic is under the policy of the last run, or denied.
	Held bool
}

func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *StartError) Unwrap() error { return e.Err }

// NotStarted makes a StartError of an error with which a start ended, denies everything
// by lock, if there is one and nothing is held, and logs what all that means and what to
// do. Nil stays nil, and so does that another egressd runs. traffic is what
// WithoutDaemon says.
func NotStarted(err error, traffic func() string, lock func() error, log *slog.Logger) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, bpffs.ErrInUse) {
		log.Error("egressd does not start", "error", err, "traffic", "the egressd that runs decides", "do", "stop the other egressd, or let it run")
		return err
	}
	now := traffic()
	do := "correct that and start egressd again; \"egressd unload\" opens all traffic"
	switch {
	case now == trafficOpen && lock != nil:
		if lerr := lock(); lerr != nil {
			log.Error("traffic could not be locked (--on-failure lock); captured processes are NOT filtered", "error", lerr)
			do = "correct that and start egressd again"
		} else {
			now = trafficShut
		}
	case now == trafficOpen:
		do = "correct that and start egressd again; with --on-failure lock nothing gets out until a start succeeds"
	}
	log.Error("egressd does not start", "error", err, "traffic", now, "do", do)
	return &StartError{Err: err, Held: now != trafficOpen}
}
