// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// liveWait is how long a daemon that lives may take to answer itself.
const liveWait = 5 * time.Second

// Live answers 200 while a check passes in time, and 503 otherwise: for whoever
// restarts what is stuck. However often it is asked, one check runs at a time, and
// one that never ends is one failure after the other.
type Live struct {
	check func(context.Context) error
	wait  time.Duration

	mu  sync.Mutex
	now *checked // nil: none runs
}

// checked is a check that runs.
type checked struct {
	done chan struct{}
	err  error // when it is done
}

// NewLive makes a Live of a check that may take no longer than some seconds.
func NewLive(check func(context.Context) error) *Live { return &Live{check: check, wait: liveWait} }

var errStuck = errors.New("the daemon does not answer itself")

// ServeHTTP implements http.Handler.
func (l *Live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := l.begin()
	limit := time.NewTimer(l.wait)
	defer limit.Stop()
	err := errStuck
	select {
	case <-c.done:
		err = c.err
	case <-limit.C:
	case <-r.Context().Done():
	}
	if err != nil {
		http.Error(w, "not alive: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "alive")
}

// begin is the check that runs, or a new one.
func (l *Live) begin() *checked {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		return l.now
	}
	c := &checked{done: make(chan struct{})}
	l.now = c
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), l.wait)
		defer cancel()
		c.err = l.check(ctx)
		l.mu.Lock()
		l.now = nil
		l.mu.Unlock()
		close(c.done)
	}()
	return c
}
