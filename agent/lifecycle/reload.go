// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"sync"

	"github.com/egressd/egressd/agent/control"
	"github.com/egressd/egressd/policy/istio"
)

// Reloaded is how the policy is after a reload.
type Reloaded struct {
	// Policy is the one in force. Its Error is why the files are not.
	Policy control.PolicyStatus `json:"policy"`
	// Findings are what is to be said of the files, without notes.
	Findings []istio.Finding `json:"findings"`
	// Changed says that another policy than before is in force.
	Changed bool `json:"changed"`
}

// requests are reloads that were asked for and have not begun.
type requests struct {
	asked chan struct{} // has a value when there is one
	mu    sync.Mutex
	wait  []chan<- Reloaded // of those who wait; each has room for its outcome
}

func newRequests() requests { return requests{asked: make(chan struct{}, 1)} }

// ask adds one. done may be nil.
func (r *requests) ask(done chan<- Reloaded) {
	if done != nil {
		r.mu.Lock()
		r.wait = append(r.wait, done)
		r.mu.Unlock()
	}
	select {
	case r.asked <- struct{}{}:
	default: // one is asked for, and has not begun
	}
}

// take begins what was asked for, and is who waits for it.
func (r *requests) take() []chan<- Reloaded {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.wait
	r.wait = nil
	return all
}

// Reload asks for the policy to be read again, as if its files had changed. It does not
// wait.
func (l *Lifecycle) Reload() { l.reloads.ask(nil) }

// ReloadNow asks as Reload does, and waits until what the files have is in force or is
// found to be wrong. The error is that of ctx.
func (l *Lifecycle) ReloadNow(ctx context.Context) (Reloaded, error) {
	done := make(chan Reloaded, 1)
	l.reloads.ask(done)
	select {
	case o := <-done:
		return o, nil
	case <-ctx.Done():
		return Reloaded{}, context.Cause(ctx)
	}
}

// Reloads does what Reload asks for, until ctx ends. written returns when no file is
// being written, and also reads what else is to be read again.
func (l *Lifecycle) Reloads(ctx context.Context, written func(context.Context), also func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.reloads.asked:
			waiting := l.reloads.take() // who asks from now on is for the next one
			l.o.Manager.Reloading()
			written(ctx) // half of a file is no policy that was asked for
			l.log.Info("the policy is read again, because a reload was requested")
			also()
			o := l.readAgain()
			l.o.Manager.Ready(l.summary())
			for _, done := range waiting {
				done <- o
			}
		}
	}
}

// readAgain reloads, and says what came of it where that is not said yet.
func (l *Lifecycle) readAgain() Reloaded {
	before, _ := l.o.Policy.Report()
	l.o.Policy.Reload()
	now, findings := l.o.Policy.Report()
	switch {
	case now.Error != "":
	case before.Error != "":
		l.log.Info("the policy's files are good again; their policy is in force", "hash", short(now.Hash))
	case before.Hash == now.Hash:
		l.log.Info("the policy has not changed", "hash", short(now.Hash))
	}
	return Reloaded{Policy: now, Findings: findings, Changed: before.Hash != now.Hash}
}
