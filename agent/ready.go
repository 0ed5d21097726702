// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"sync"
	"time"
)

// status is the part of the Status that is not asked from others.
type status struct {
	agent   *Agent
	started time.Time

	mu    sync.Mutex
	ready bool
}

// errNotServing says that the agent begins, or ends.
var errNotServing = errors.New("egressd is starting or stopping")

func newStatus(a *Agent) *status { return &status{agent: a, started: time.Now()} }

func (s *status) setReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = ready
}

// notReady is why the agent is not ready; nil: it is.
func (s *status) notReady() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ready {
		return errNotServing
	}
	return errors.Join(s.agent.capture.Err(), s.agent.holding.Err(), s.agent.probe.NotReady())
}
