// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"sync"
	"sync/atomic"
)

// maxWaiting is how many goroutines wait for a connection to serve.
const maxWaiting = 32

// workers serve connections, each in a goroutine of its own. Some wait for the next
// one when theirs has ended: a goroutine has its stack copied two or three times
// until it is as big as a request needs it.
type workers struct {
	jobs    chan accepted
	ended   chan struct{} // closed when the core is shut down
	over    sync.Once
	waiting atomic.Int64
}

// end lets go of those that wait.
func (w *workers) end() { w.over.Do(func() { close(w.ended) }) }

func (w *workers) serve(a accepted) {
	select {
	case w.jobs <- a:
	default:
		go w.run(a)
	}
}

func (w *workers) run(a accepted) {
	for {
		a.serve()
		a = accepted{}
		if w.waiting.Add(1) > maxWaiting {
			w.waiting.Add(-1)
			return
		}
		select {
		case a = <-w.jobs:
			w.waiting.Add(-1)
		case <-w.ended:
			return
		}
	}
}
