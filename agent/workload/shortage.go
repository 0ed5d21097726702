// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/egressd/egressd/loader"
)

// shortage is how many cgroups do not have the policy of their Workload, because
// there is no room for more. The lock of the workloads guards it, but for left.
type shortage struct {
	full       *loader.WorkloadsFullError // nil: there was room
	unnumbered int                        // Workloads that there is no number for
	left       atomic.Int64               // of both, as it was said last
}

// room notes what SetWorkloads returned, and returns what other error it was. That
// the table is full is none: what fits is in force.
func (s *shortage) room(err error) error {
	s.full = nil
	if errors.As(err, &s.full) {
		return nil
	}
	return err
}

// say logs when the shortage begins and when it ends.
func (s *shortage) say(log *slog.Logger) {
	left := s.unnumbered
	if s.full != nil {
		left += s.full.Left
	}
	switch was := s.left.Swap(int64(left)); {
	case left > 0 && was == 0:
		attrs := []any{"cgroups", left}
		if s.full != nil {
			attrs = append(attrs, "room", s.full.Max)
		}
		if s.unnumbered > 0 {
			attrs = append(attrs, "workloads", loader.MaxWorkloads)
		}
		log.Error(shortText+"; describe fewer cgroups, or one that is above them", attrs...)
	case left == 0 && was > 0:
		log.Info("every cgroup has the policy of its Workload again")
	}
}

const shortText = "the kernel's table has no room for all cgroups that Workloads describe; those left out are under the policy of the cgroup around them"

// text says what is short, for the status; "": nothing.
func (s *shortage) text() string {
	if n := s.left.Load(); n > 0 {
		return fmt.Sprintf("%s: %d", shortText, n)
	}
	return ""
}
