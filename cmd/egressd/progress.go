// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
)

const (
	// progressAfter is how long something takes before people are told how far it is.
	progressAfter = 500 * time.Millisecond
	// progressEvery is how often the line is written anew.
	progressEvery = 200 * time.Millisecond
)

// progress tells people on a terminal how far reading flow logs is, in a line that is
// erased before anything else is written. Without a terminal it says nothing.
type progress struct {
	to    io.Writer // nil: nobody looks
	now   func() time.Time
	next  time.Time // nothing is written before
	drawn bool
}

func newProgress(e env) *progress {
	p := &progress{now: time.Now}
	if isTerminal(e.stderr) && e.getenv("TERM") != "dumb" {
		p.to = e.stderr
	}
	p.next = p.now().Add(progressAfter)
	return p
}

// told is flowrecord's Progress.
func (p *progress) told(read, of int64) {
	if p.to == nil || p.now().Before(p.next) {
		return
	}
	p.next = p.now().Add(progressEvery)
	p.drawn = true
	if of > 0 {
		fmt.Fprintf(p.to, "\r\x1b[Kreading flow logs: %d %% of %s", min(100, read*100/of), megabytes(of))
		return
	}
	fmt.Fprintf(p.to, "\r\x1b[Kreading flow logs: %s", megabytes(read))
}

// erase takes the line away.
func (p *progress) erase() {
	if p.drawn {
		p.drawn = false
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// readLogs calls f for the events of flow logs, and tells how far it is.
func readLogs(e env, paths []string, f func(flow.Event) bool) (flowrecord.Unread, error) {
	p := newProgress(e)
	defer p.erase()
	return flowrecord.LogFiles{Paths: paths, Stdin: e.stdin, Progress: p.told}.Each(f)
}
