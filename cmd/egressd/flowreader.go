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
	"strconv"
	"time"

	"github.com/egressd/egressd/agent/admin"
	"github.com/egressd/egressd/agent/events"
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
	// instance and number are of whom the events are that were read, and how far:
	// agent/events counts them. Empty: no daemon has said so.
	instance string
	number   uint64
	// last is the time of the newest event that was read.
	last time.Time
	// again says that it was connected before.
	again bool
}

// once shows what the daemon answers.
func (r *reader) once(ctx context.Context) error {
	data, err := r.daemon.ask(ctx, http.MethodGet, admin.PathFlows, r.query)
	if err != nil {
		return err
	}
	return r.pass(bytes.NewReader(data))
}

// read shows events as they come, until the daemon ends. answered says that there was
// one. The same daemon goes on where it was left, and tells of what it does not keep any
// more; another one has all that it knows to tell.
func (r *reader) read(ctx context.Context) (answered bool, err error) {
	r.query.Set("follow", "1")
	r.query.Set(events.Positions, "1")
	r.query.Set(events.Instance, r.instance)
	r.query.Set(events.After, strconv.FormatUint(r.number, 10))
	resp, err := r.daemon.open(ctx, http.MethodGet, admin.PathFlows, r.query)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	was := r.instance
	if r.instance = resp.Header.Get(events.InstanceHeader); r.instance != was {
		r.number = 0
	}
	switch {
	case r.again && r.instance != was:
		gap := ""
		if !r.last.IsZero() {
			gap = "; what the one before it decided after " + r.last.Local().Format("15:04:05.000") + " and was not read is lost, and how much that is nobody knows"
		}
		printLine(r.e.stderr, "egressd: connected again, to a daemon that was started anew%s", gap)
	case r.again:
		printLine(r.e.stderr, "egressd: connected again, and going on where it was left")
	}
	r.again = true
	return true, r.pass(resp.Body)
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
		r.number = max(r.number, ev.Number)
		if ev.Kind != flow.Position && r.wanted.Wants(&ev) {
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
