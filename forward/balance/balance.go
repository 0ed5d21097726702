// SPDX-License-Identifier: Apache-2.0

// Package balance chooses among the endpoints of a service, as the load
// balancers, the outlier detection and the circuit breakers of Envoy do that
// Istio's DestinationRule configures (istio.io/api networking/v1alpha3
// LoadBalancerSettings, OutlierDetection, ConnectionPoolSettings).
//
// It knows nothing of connections: it is told which endpoints there are, what a
// request gives to hash, and when it begins and ends on an endpoint and with what
// result. It has no goroutine and no timer: what depends on the time is worked out
// when it is asked.
package balance

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// Algorithm is how an endpoint is chosen.
type Algorithm uint8

// The algorithms (envoy config.cluster.v3.Cluster.LbPolicy).
const (
	// LeastRequest takes of two endpoints, drawn at random, the one with fewer
	// requests under way; with unequal weights the one whose turn it is when each
	// counts its weight divided by its requests and one.
	LeastRequest Algorithm = iota
	// RoundRobin takes one after the other, by their weights.
	RoundRobin
	// Random draws by weight.
	Random
	// RingHash and Maglev choose by the request's hash.
	RingHash
	Maglev
)

// Settings are how the endpoints of a service are used.
type Settings struct {
	Algorithm Algorithm
	// TableSize is the least number of entries of RingHash, the exact and prime
	// one of Maglev; 0: 1024 and 65537, Envoy's defaults.
	TableSize       uint64
	SlowStart       SlowStart
	Outlier         Outlier
	CircuitBreakers CircuitBreakers
}

// SlowStart has an endpoint that joins take its share little by little (envoy
// config.cluster.v3.Cluster.SlowStartConfig). It acts with LeastRequest and
// RoundRobin.
type SlowStart struct {
	Window time.Duration // 0: none
	// Least is the share at the beginning, in percent; Aggression above 1 lets it
	// grow faster at first. 0: Envoy's 10 and 1.
	Least, Aggression float64
}

// Member is one place to send to.
type Member struct {
	// Key tells it from the others, and is what the tables of hashes are made of:
	// in Envoy that is the address with its port.
	Key    string
	Weight uint32 // 0 counts as 1
	// Priority is 0 for those that are used as long as enough of them are good.
	Priority uint8
	// Locality is a number for where it is, Share the weight of that place among
	// those of one priority; 0: the place makes no difference.
	Locality uint16
	Share    uint32
}

// Errors of Pick.
var (
	// ErrNone: there is no endpoint.
	ErrNone = errors.New("there is no endpoint")
	// ErrUnhealthy: outlier detection has taken all of them out.
	ErrUnhealthy = errors.New("no endpoint is healthy")
)

// Options are what a Balancer works with.
type Options struct {
	Now  func() time.Time
	Rand func() uint64 // uniformly distributed
	// Ejected is told of each ejection; it must not call the Balancer. nil: nobody.
	Ejected func(Ejection)
}

// Balancer chooses among the endpoints of one service. It is safe for concurrent
// use.
type Balancer struct {
	o Options

	mu     sync.Mutex
	p      Settings
	hosts  []*host
	groups []*group
	// swept is the last tick of outlier detection's interval.
	swept   time.Time
	ejected int
	taken   [resources]int
	freed   chan struct{} // closed when a connection is given back; nil: nobody waits
}

// host is an endpoint with what is known of it.
type host struct {
	Member
	index  int
	group  *group
	active int // requests under way
	// turn is when its turn comes, in the group's time.
	turn float64
	// joined is when it came; zero: with the first ones, which share at once.
	joined time.Time
	health
}

// New returns a Balancer without endpoints.
func New(o Options) *Balancer { return &Balancer{o: o} }

// Update says which endpoints there are and how they are used. What is known of
// those that stay is kept.
func (b *Balancer) Update(p Settings, list []Member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.p == p && slices.EqualFunc(b.hosts, list, func(h *host, e Member) bool { return h.Member == e }) {
		return
	}
	if p.Outlier.On && !b.p.Outlier.On {
		b.swept = b.o.Now()
	}
	known := make(map[string]*host, len(b.hosts))
	for _, h := range b.hosts {
		known[h.Key] = h
	}
	var now time.Time
	if len(b.hosts) > 0 {
		now = b.o.Now()
	}
	hosts := make([]*host, 0, len(list))
	for _, e := range list {
		h := known[e.Key]
		if h == nil {
			h = &host{joined: now}
		}
		delete(known, e.Key)
		h.Member, h.index = e, len(hosts)
		hosts = append(hosts, h)
	}
	b.p, b.hosts = p, hosts
	if !p.Outlier.On {
		for _, h := range hosts {
			h.health = health{}
		}
	}
	b.regroup()
}

// Picked is an endpoint that was chosen for a request. The zero value is none.
type Picked struct {
	b *Balancer
	h *host
	// Index is its place in the list that was given last.
	Index int
}

// Pick chooses an endpoint for a request, which has begun there: End ends it.
// tried says of the endpoint at an index whether the request was there already,
// and is nil at the first time; such an endpoint is chosen when there is no other.
func (b *Balancer) Pick(key Hash, tried func(index int) bool) (Picked, error) {
	return b.PickAgain(key, tried, nil)
}

// PickAgain is Pick for a request whose attempts are to go to other priorities than
// those before, and has before know of this one; nil: they are not.
func (b *Balancer) PickAgain(key Hash, tried func(index int) bool, before *PreviousPriorities) (Picked, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.hosts) == 0 {
		return Picked{}, ErrNone
	}
	b.sweep()
	h := b.elsewhere(before, key, tried)
	if h == nil && tried != nil {
		h = b.another(key, tried)
	}
	if h == nil {
		h = b.choose(key)
	}
	if h == nil {
		return Picked{}, ErrUnhealthy
	}
	if before != nil {
		before.attempted = append(before.attempted, h.Priority)
	}
	h.active++
	return Picked{b, h, h.index}, nil
}

// End ends the request on the endpoint.
func (c Picked) End() {
	if c.b == nil {
		return
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.h.active--
}

// Active is how many requests are under way, and connections taken.
func (b *Balancer) Active() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.taken[Connections]
	for _, h := range b.hosts {
		n += h.active
	}
	return n
}
