// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowfilter"
	"github.com/egressd/egressd/internal/flowrecord"
)

// reader reads the daemon's events.
type reader struct {
	e      env
	daemon client
	query  url.Values
	// wanted is what query asks for: a daemon of an earlier version may not know all.
	wanted flowfilter.Filter
	show   func(e flow.Event, line []byte)
	// last is the time of the newest event that was read.
	last time.Time
	// again says that it was connected before.
	again bool
}

// read shows what the daemon answers, until that ends. answered says that
// there was a daemon.
func (r *reader) read(ctx context.Context) (answered bool, err error) {
	if !r.last.IsZero() {
		r.query.Set("since", r.last.Format(time.RFC3339Nano))
	}
	body, err := openFlows(ctx, r.daemon, r.query)
	if err != nil {
		return false, err
	}
	defer body.Close()
	if r.again {
		printLine(r.e.stderr, "egressd: connected again")
	}
	r.again = true
	return true, r.pass(body)
}

// openFlows asks for events, once or as they come.
func openFlows(ctx context.Context, c client, q url.Values) (io.ReadCloser, error) {
	if q.Has("follow") {
		return c.follow(ctx, admin.PathFlows, q)
	}
	data, err := c.ask(ctx, http.MethodGet, admin.PathFlows, q)
	return io.NopCloser(bytes.NewReader(data)), err
}

// pass shows the events that are wanted.
func (r *reader) pass(body io.Reader) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		ev, err := flowrecord.Parse(lines.Bytes())
		if err != nil {
			return told(err)
		}
		if ev.Time.After(r.last) {
			r.last = ev.Time
		}
		if r.wanted.Wants(&ev) {
			r.show(ev, lines.Bytes())
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the daemon ended: %w", err)
	}
	return nil
}

// askAgain is how long a follower waits before it asks for the daemon again.
const askAgain = 500 * time.Millisecond

// follow reads until ctx is done. Without a daemon at the beginning there is
// nothing to follow.
func (r *reader) follow(ctx context.Context) error {
	answered, err := r.read(ctx)
	if !answered {
		return done(ctx, err)
	}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for waits := false; ctx.Err() == nil; {
		if answered {
			printLine(r.e.stderr, "egressd: the daemon has ended, or this reader was too slow for it; connecting again")
		} else if !waits {
			printLine(r.e.stderr, "egressd: %v; waiting for it", err)
		}
		waits = !answered
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		answered, err = r.read(ctx)
	}
	return nil
}

// done is the error of what ended because ctx did: none.
func done(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
