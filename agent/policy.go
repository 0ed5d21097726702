// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/istio"
	"github.com/egressd/egressd/policy/load"
)

// Loaded is the outcome of reading the configuration.
type Loaded = load.Result

// current holds the snapshot that everything decides from.
type current struct {
	p atomic.Pointer[policy.Snapshot]
}

// Policy returns the newest policy with the id, or nil.
func (c *current) Policy(id policy.PolicyID) *policy.Policy {
	if s := c.p.Load(); s != nil {
		return s.Policy(id)
	}
	return nil
}

// reload reads the policy again and applies it. On any error the old policy
// stays and the status says what is wrong.
func (a *Agent) reload() {
	c := a.config
	c.mu.Lock()
	defer c.mu.Unlock()
	l, err := c.load(a.current.p.Load())
	if !a.emptyInForce {
		err = c.refuses(l, err)
	}
	if err == nil {
		if err = a.apply(l); err == nil {
			a.emptyInForce = l.Empty
		}
	}
	a.logFindings(l.Findings)
	a.status.loaded(l, err, time.Now())
	if errors.Is(err, errEmpty) {
		a.log.Warn("policy not applied; the previous one stays in force, also for new connections", "error", err)
		c.unseen = false
		return
	}
	if err != nil {
		a.log.Error("policy not applied; the previous one stays in force, also for new connections", "error", err)
		c.unseen = false // the reader has gone on to the one with the error
		return
	}
	c.later(l, true)
	release(l.Took)
}

// bigPolicy is how long loading takes when it is worth to clean up behind it.
const bigPolicy = 100 * time.Millisecond

// release gives the memory back that loading a big policy took: it is several
// times what the policy itself needs, and nothing else will need it soon.
func release(t load.Took) {
	if t.Read+t.Decode+t.Compile > bigPolicy {
		debug.FreeOSMemory()
	}
}

func (a *Agent) logFindings(findings []istio.Finding) {
	for _, f := range findings {
		switch f.Severity {
		case istio.Error:
			a.log.Error("policy", "finding", f.String())
		case istio.Warning:
			a.log.Warn("policy", "finding", f.String())
		default:
			a.log.Debug("policy", "finding", f.String())
		}
	}
}
