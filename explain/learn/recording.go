// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/policy"
)

// Recording is what a daemon knows of where its workloads went.
type Recording struct {
	// Started is since when.
	Started time.Time `json:"started"`
	// Folded counts the allowed flows that there was no room for, Lost the events of
	// the kernel that nobody has read.
	Folded int `json:"folded"`
	Lost   int `json:"lost"`
	// Workloads are those that are described.
	Workloads []policy.Identity `json:"workloads"`
	// Flows are lines of a flow log.
	Flows []json.RawMessage `json:"flows"`
}

// Record makes a Recording.
func Record(started time.Time, events []flow.Event, folded, lost int, s *policy.Snapshot) (Recording, error) {
	out := Recording{Started: started, Folded: folded, Lost: lost, Workloads: IdentitiesOf(s), Flows: make([]json.RawMessage, 0, len(events))}
	for _, e := range events {
		line, err := flowrecord.Append(nil, e)
		if err != nil {
			return out, err
		}
		out.Flows = append(out.Flows, line)
	}
	return out, nil
}

// IdentitiesOf are the workloads that a policy describes, which may be nil.
func IdentitiesOf(s *policy.Snapshot) []policy.Identity {
	out := []policy.Identity{}
	if s != nil {
		for _, w := range s.Workloads() {
			out = append(out, w.Identity)
		}
	}
	return out
}

// AddRecording takes the flows of a Recording.
func (l *Learner) AddRecording(r Recording) error {
	l.folded += r.Folded
	l.lost += r.Lost
	for _, line := range r.Flows {
		e, err := flowrecord.Parse(line)
		if err != nil {
			return fmt.Errorf("read what the daemon has recorded: %w", err)
		}
		l.Add(e)
	}
	return nil
}

// Span is when the first and the last of what was taken came.
func (l *Learner) Span() (first, last time.Time) { return l.first, l.last }
