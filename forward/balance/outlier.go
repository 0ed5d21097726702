// SPDX-License-Identifier: Apache-2.0

package balance

import "time"

// Outlier takes endpoints out for a time that fail (envoy
// config.cluster.v3.OutlierDetection, as Istio sets it). 0 for a number of errors
// switches that check off.
type Outlier struct {
	On bool
	// Errors are consecutive error answers, Gateway consecutive ones with 502,
	// 503 or 504. Failures of egressd's own (a connection that could not be made,
	// was reset, or timed out) are among both, unless Split: then Local counts
	// them alone.
	Errors, Gateway, Local uint32
	Split                  bool
	// Interval is how often it is looked which endpoints return.
	Interval time.Duration
	// Base times the number of ejections is how long an endpoint is out, MaxTime
	// at the most.
	Base, MaxTime time.Duration
	// MaxPercent is how many may be out at once.
	MaxPercent int
	// MinHealthy: with fewer good ones, in percent, all are used (Envoy's panic
	// threshold).
	MinHealthy int
}

// Envoy's defaults, which Istio leaves as they are.
const (
	DefaultErrors     = 5
	DefaultInterval   = 10 * time.Second
	DefaultBase       = 30 * time.Second
	DefaultMaxTime    = 300 * time.Second
	DefaultMaxPercent = 10
)

// EjectionCause is why an endpoint was taken out.
type EjectionCause uint8

// The causes, and how many there are.
const (
	ConsecutiveErrors EjectionCause = iota
	ConsecutiveGateway
	ConsecutiveLocal
	Causes
)

var causeNames = [Causes]string{"consecutive_5xx", "consecutive_gateway_failure", "consecutive_local_origin_failure"}

// String is Envoy's name for it.
func (c EjectionCause) String() string { return causeNames[c] }

// Ejection tells that an endpoint was taken out.
type Ejection struct {
	Key   string
	Cause EjectionCause
	// For is how long, until the next interval after it.
	For time.Duration
}

// RequestResult is how a request went.
type RequestResult uint8

// The results.
const (
	// Good: an answer without an error, or a connection.
	Good RequestResult = iota
	// Failed: an answer with an error; FailedGateway: 502, 503 or 504.
	Failed
	FailedGateway
	// FailedLocally: no answer came.
	FailedLocally
)

// health is what outlier detection knows of an endpoint.
type health struct {
	errors, gateway, local uint32
	ejected                time.Time // zero: it is not out
	times                  int64     // what its ejection time is multiplied by
}

func (h *health) out() bool { return !h.ejected.IsZero() }

// Report says how the request went. It may be called before End, and more than
// once for a connection and what came of it.
func (c Picked) Report(r RequestResult) {
	if c.b == nil {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.b.p.Outlier.On && c.h.index < len(c.b.hosts) && c.b.hosts[c.h.index] == c.h {
		c.b.count(c.h, r)
	}
}

// count counts a result, and takes the endpoint out when there were too many.
func (b *Balancer) count(h *host, r RequestResult) {
	o := &b.p.Outlier
	if r == FailedLocally && o.Split {
		h.local++
		b.judge(h, &h.local, o.Local, ConsecutiveLocal)
		return
	}
	h.local = 0
	if r == Good {
		h.errors, h.gateway = 0, 0
		return
	}
	h.errors++
	if r == Failed {
		h.gateway = 0
	} else {
		h.gateway++
		b.judge(h, &h.gateway, o.Gateway, ConsecutiveGateway)
	}
	b.judge(h, &h.errors, o.Errors, ConsecutiveErrors)
}

// judge takes h out when n has reached most. When no more may be out, it begins to
// count anew.
func (b *Balancer) judge(h *host, n *uint32, most uint32, why EjectionCause) {
	o := &b.p.Outlier
	if most == 0 || *n < most || h.out() {
		return
	}
	*n = 0
	// The bound counts for the first one as well (Envoy since 1.28, whose
	// always_eject_one_host Istio does not set).
	if 100*(b.ejected+1) > o.MaxPercent*len(b.hosts) {
		return
	}
	h.ejected = b.o.Now()
	if o.Base*time.Duration(h.times) < o.MaxTime {
		h.times++
	}
	b.refresh()
	if b.o.Ejected != nil {
		b.o.Ejected(Ejection{h.Key, why, o.time(h.times)})
	}
}

// time is how long the n-th ejection takes.
func (o *Outlier) time(n int64) time.Duration { return min(o.Base*time.Duration(n), o.MaxTime) }

// sweep does what is due at the ticks of the interval that have passed: endpoints
// return that were out for long enough, and each tick without being out takes one
// off what the next ejection time is multiplied by.
func (b *Balancer) sweep() {
	o := &b.p.Outlier
	if !o.On {
		return
	}
	ticks := int64(b.o.Now().Sub(b.swept) / o.Interval)
	if ticks <= 0 {
		return
	}
	b.swept = b.swept.Add(time.Duration(ticks) * o.Interval)
	changed := false
	for _, h := range b.hosts {
		good := ticks
		if h.out() {
			over := b.swept.Sub(h.ejected.Add(o.time(h.times)))
			if over < 0 {
				continue
			}
			times := h.times
			h.health = health{times: times}
			good, changed = int64(over/o.Interval), true
		}
		h.times = max(0, h.times-good)
	}
	if changed {
		b.refresh()
	}
}

// panics says whether so few are good that all are used.
func (b *Balancer) panics() bool {
	return b.ejected > 0 && 100*(len(b.hosts)-b.ejected) < b.p.Outlier.MinHealthy*len(b.hosts)
}

// Ejected is how many endpoints are out now.
func (b *Balancer) Ejected() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.hosts) > 0 {
		b.sweep()
	}
	return b.ejected
}
