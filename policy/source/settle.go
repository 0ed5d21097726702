// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"sync"
	"time"
)

const (
	// settleTime is how long no file of the configuration must have changed, and
	// none be open with what a writer changed in it, before a change is reported:
	// half of a file is often a good file, of another policy.
	settleTime = time.Second
	// churnTime is when a configuration that never settles is reported all the
	// same, at the first moment at which no writer has a changed file open, and
	// churnMost is when it is reported in any case.
	churnTime = 5 * time.Second
	churnMost = 10 * time.Second
	// replaced is settleTime for files that were moved to their place, and for
	// links: they are complete, and all that can follow is another one.
	replaced = 2 * time.Millisecond
	// patience is churnMost for these.
	patience = 500 * time.Millisecond
	// debounce is settleTime for what is beside the configuration.
	debounce = 100 * time.Millisecond
)

// weight says what an event means for the time to look.
type weight int

const (
	// aside: something beside the configuration, such as the file that will
	// be moved to its place. It is looked at, for links may lead through it.
	aside weight = iota
	// whole: a file or a link is in its place.
	whole
	// partial: a file of the configuration is being changed.
	partial
)

// pending are events that were not looked at yet.
type pending struct {
	since time.Time // of the first; zero: none
	last  time.Time // of the last one that puts the look off
	worst weight
	// seen is what a scan found that noticed the change, or saw it go on; nil:
	// the events tell.
	seen map[string]stamp
}

// add notes an event.
func (p *pending) add(e weight, now time.Time) {
	first := p.since.IsZero()
	if first {
		p.since = now
	}
	p.worst = max(p.worst, e)
	if first || e != aside {
		p.last = now
	}
}

// due is when to look, if nothing follows; writing: a writer has a changed file
// open. There must be an event.
func (p *pending) due(writing bool) time.Time {
	switch {
	case p.worst == aside:
		return p.last.Add(debounce)
	case writing: // what is in its place may belong to what is not
		return p.since.Add(churnMost)
	case p.worst == whole:
		return earlier(p.last.Add(replaced), p.since.Add(patience))
	}
	if p.last.Sub(p.since) >= churnTime {
		return p.last // a writer has just closed: the best moment that there is
	}
	return p.last.Add(settleTime)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// writers are the files that were changed by somebody who has them open still.
// It is safe for concurrent use.
type writers struct {
	mu    sync.Mutex
	files map[string]bool
	none  chan struct{} // closed when the last one goes; nil: there is none
}

// note takes an event about a file of the configuration.
func (w *writers) note(e notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case e.closed, e.gone, e.moved:
		delete(w.files, e.name)
	case e.written:
		if w.files == nil {
			w.files, w.none = map[string]bool{}, make(chan struct{})
		}
		w.files[e.name] = true
	}
	w.settle()
}

// forget is for when events were lost.
func (w *writers) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.files)
	w.settle()
}

func (w *writers) settle() {
	if w.none != nil && len(w.files) == 0 {
		close(w.none)
		w.files, w.none = nil, nil
	}
}

func (w *writers) any() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.files) > 0
}

// WaitWritten returns when no file of the configuration is being written as far
// as is known, after 10 s at the latest, or when ctx is done.
func (w *Watcher) WaitWritten(ctx context.Context) {
	w.writers.mu.Lock()
	none := w.writers.none
	w.writers.mu.Unlock()
	if none == nil {
		return
	}
	timer := time.NewTimer(churnMost)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C:
	case <-ctx.Done():
	}
}
