// SPDX-License-Identifier: Apache-2.0

package events

import "github.com/egressd/egressd/internal/flow"

// After returns the events from a number on, as flow.Log has them: of denials the first
// of a kind, and how many more there were. The first number is 0.
func (r *Recorder) After(from uint64, enough int) (events []flow.Event, next, gone uint64) {
	return r.events.After(from, enough)
}
