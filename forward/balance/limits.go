// SPDX-License-Identifier: Apache-2.0

package balance

// CircuitBreakers bound what is under way to all endpoints together (envoy
// config.cluster.v3.CircuitBreakers.Thresholds); 0: no bound.
type CircuitBreakers struct {
	Connections, Pending, Requests, Retries int
}

// Resource is what CircuitBreakers bound.
type Resource uint8

// The resources: connections; requests that wait for one; requests that have an
// endpoint; attempts after the first.
const (
	Connections Resource = iota
	Pending
	Requests
	Retries
	resources
)

var resourceNames = [resources]string{"connections", "pending requests", "requests", "retries"}

func (r Resource) String() string { return resourceNames[r] }

func (l *CircuitBreakers) of(r Resource) int {
	return [resources]int{l.Connections, l.Pending, l.Requests, l.Retries}[r]
}

// Take takes one of r; false: the limit is reached, and nothing is taken.
func (b *Balancer) Take(r Resource) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if most := b.p.CircuitBreakers.of(r); most > 0 && b.taken[r] >= most {
		return false
	}
	b.taken[r]++
	return true
}

// Give gives back what Take has taken.
func (b *Balancer) Give(r Resource) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken[r]--
	if r == Connections {
		b.wake()
	}
}

// Wake has those look again who wait for a connection.
func (b *Balancer) Wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wake()
}

func (b *Balancer) wake() {
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

// Waiting is how many requests wait for a connection.
func (b *Balancer) Waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken[Pending]
}

// Freed returns a channel that is closed when a connection is given back, or Wake
// is called. It is to be asked before Take, so that nothing is missed in between.
func (b *Balancer) Freed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed == nil {
		b.freed = make(chan struct{})
	}
	return b.freed
}
