// SPDX-License-Identifier: Apache-2.0

package upstream

import (
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/egressd/egressd/forward/balance"
	"github.com/egressd/egressd/forward/limits"
	"github.com/egressd/egressd/policy"
)

const (
	// forgetAfter is how long what is known of a service's endpoints is kept
	// while nothing goes there: longer than any ejection by default.
	forgetAfter = 10 * time.Minute
	// balancedMemory is what is known of a service, and endpointMemory of each of
	// its endpoints, in bytes.
	balancedMemory = 1 << 10
	endpointMemory = 256
)

// balancers have what is known of the endpoints of services. Each workload has its
// own, as each has a proxy of its own in a mesh: what one does to a service takes
// no endpoint away from another.
type balancers struct {
	limits   *limits.Limits
	log      *slog.Logger
	rand     func() uint64
	now      func() time.Time
	locality string

	ejections [balance.Causes]atomic.Uint64
	told      atomic.Int64 // when an ejection was last logged, in nanoseconds since 1970

	mu   sync.Mutex
	list map[balancedKey]*Balanced
	// swept is when it was last looked for what can be forgotten.
	swept time.Time
}

// balancedKey names a service as a workload sees it, whatever the generation of
// the policy.
type balancedKey struct {
	holder limits.Owner
	host   string
	port   uint16
	subset string
	// rule and traffic are the ServiceEntry and the DestinationRule.
	rule, traffic [2]string
}

// Balanced is what is known of one service.
type Balanced struct {
	*balance.Balancer
	held *limits.Lease
	used atomic.Int64 // when it was last asked for, in nanoseconds since 1970

	mu   sync.Mutex
	from *policy.Upstream // what it was last told of
	// index is the place among the upstream's endpoints and names of each of the
	// balancer's.
	index []int
}

func keyOfService(h limits.Owner, u *policy.Upstream) balancedKey {
	k := balancedKey{holder: h, host: u.Host, port: u.Port, subset: u.Subset}
	if u.Match != nil {
		k.host = string(u.Match.Pattern) // a wildcard's names are one service
	}
	if u.Rule != nil {
		k.rule = [2]string{u.Rule.Namespace, u.Rule.Name}
	}
	if u.TrafficRule != nil {
		k.traffic = [2]string{u.TrafficRule.Namespace, u.TrafficRule.Name}
	}
	return k
}

// of returns what is known of u, and knows it from now on. The error is that the
// workload has no room for it.
func (b *balancers) of(h limits.Owner, u *policy.Upstream) (*Balanced, error) {
	k, now := keyOfService(h, u), b.now()
	b.mu.Lock()
	s := b.list[k]
	if s == nil {
		b.forget(now)
		s = &Balanced{held: limits.NewLease(b.limits, h)}
		s.Balancer = balance.New(balance.Options{Now: b.now, Rand: b.rand, Ejected: func(e balance.Ejection) { b.ejected(k, e) }})
		if err := s.held.Take(0, balancedMemory); err != nil {
			b.mu.Unlock()
			return nil, err
		}
		b.list[k] = s
	}
	s.used.Store(now.UnixNano())
	b.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, b.update(s, u)
}

// pick chooses one of u's endpoints and names, by its place among them.
func (b *balancers) pick(s *Balanced, u *policy.Upstream, hash balance.Hash, before Attempts) (balance.Picked, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := b.update(s, u); err != nil {
		return balance.Picked{}, 0, err
	}
	var was func(int) bool
	if len(before.Tried) > 0 {
		was = func(i int) bool { return triedAt(u, s.index[i], before.Tried) }
	}
	c, err := s.PickAgain(hash, was, before.Priorities)
	if err != nil {
		return c, 0, errUnhealthy(err)
	}
	return c, s.index[c.Index], nil
}

// update tells the balancer of u, if that is not what it knows. It is for callers
// with s.mu.
func (b *balancers) update(s *Balanced, u *policy.Upstream) error {
	if s.from == u {
		return nil
	}
	if f := s.from; f != nil && f.Traffic == u.Traffic && slices.Equal(f.Endpoints, u.Endpoints) && slices.Equal(f.Names, u.Names) {
		s.from = u
		return nil
	}
	p := balancePolicy(u)
	list, index := b.endpoints(u)
	memory := balancedMemory + endpointMemory*int64(len(list)) + p.TableBytes(len(list))
	if err := s.held.Become(memory); err != nil {
		return err
	}
	s.from, s.index = u, index
	s.Update(p, list)
	return nil
}

// forget forgets what was not asked for in a long time: the services that are gone
// are among it. It is for callers with b.mu.
func (b *balancers) forget(now time.Time) {
	if now.Sub(b.swept) < forgetAfter/10 {
		return
	}
	b.swept = now
	for k, s := range b.list {
		if now.Sub(time.Unix(0, s.used.Load())) >= forgetAfter && s.Active() == 0 {
			s.held.End()
			delete(b.list, k)
		}
	}
}

// sweep is forget for when the policy has changed.
func (b *balancers) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forget(b.now())
}

// close forgets everything.
func (b *balancers) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, s := range b.list {
		s.held.End()
		delete(b.list, k)
	}
}

// ejected counts an ejection, and says so, once a second at the most: a rule may have
// endpoints come and go as fast as there are requests.
func (b *balancers) ejected(k balancedKey, e balance.Ejection) {
	b.ejections[e.Cause].Add(1)
	now, last := b.now().UnixNano(), b.told.Load()
	if now-last < int64(time.Second) || !b.told.CompareAndSwap(last, now) {
		return
	}
	b.log.Warn("an endpoint fails and gets no requests for a while (outlierDetection)", "host", k.host, "port", k.port,
		"endpoint", e.Key, "cause", e.Cause.String(), "duration", e.For, "layer", k.holder.Layer, "workload", k.holder.Workload)
}

// counts are the ejections so far by cause.
func (b *balancers) counts() map[string]uint64 {
	out := make(map[string]uint64, balance.Causes)
	for c := range balance.Causes {
		out[c.String()] = b.ejections[c].Load()
	}
	return out
}

// endpoints are those of u that may be used, and their places in it.
func (b *balancers) endpoints(u *policy.Upstream) (list []balance.Member, index []int) {
	n := len(u.Endpoints) + len(u.Names)
	places := newPlaces(b.locality, u, n)
	for i := range n {
		e := balance.Member{Weight: weightAt(u, i)}
		if i < len(u.Endpoints) {
			if e.Key = u.Endpoints[i].Unix; e.Key == "" {
				e.Key = u.Endpoints[i].Addr.String()
			}
		} else {
			e.Key = u.Names[i-len(u.Endpoints)].Name
		}
		if !places.put(&e, localityAt(u, i), u.LabelsAt(i)) {
			continue
		}
		if !slices.ContainsFunc(list, func(o balance.Member) bool { return o.Key == e.Key }) {
			list, index = append(list, e), append(index, i)
		}
	}
	return list, index
}

func weightAt(u *policy.Upstream, i int) uint32 {
	if i < len(u.Endpoints) {
		return u.Endpoints[i].Weight
	}
	return u.Names[i-len(u.Endpoints)].Weight
}

func localityAt(u *policy.Upstream, i int) string {
	if i < len(u.Endpoints) {
		return u.Endpoints[i].Locality
	}
	return u.Names[i-len(u.Endpoints)].Locality
}

// balancePolicy is what the DestinationRule of u says, with Istio's and Envoy's
// defaults.
func balancePolicy(u *policy.Upstream) (out balance.Settings) {
	t := u.Traffic
	if t == nil {
		return out
	}
	if lb := t.LoadBalancer; lb != nil {
		switch {
		case lb.Hash != nil && lb.Hash.Maglev > 0:
			out.Algorithm, out.TableSize = balance.Maglev, lb.Hash.Maglev
		case lb.Hash != nil:
			out.Algorithm, out.TableSize = balance.RingHash, lb.Hash.RingSize
		case lb.Simple == policy.RoundRobin:
			out.Algorithm = balance.RoundRobin
		case lb.Simple == policy.Random:
			out.Algorithm = balance.Random
		}
		if w := lb.Warmup; w != nil {
			out.SlowStart = balance.SlowStart{Window: w.Window, Least: w.Least, Aggression: w.Aggression}
		}
	}
	if p := t.Pool; p != nil {
		out.CircuitBreakers = balance.CircuitBreakers{Connections: p.MaxConnections, Pending: p.MaxPendingRequests, Requests: p.MaxRequests, Retries: p.MaxRetries}
	}
	if o := t.Outlier; o != nil {
		out.Outlier = outlier(o)
	}
	return out
}

func outlier(o *policy.OutlierDetection) balance.Outlier {
	or := func(v *uint32, otherwise uint32) uint32 {
		if v != nil {
			return *v
		}
		return otherwise
	}
	out := balance.Outlier{
		On: true, Errors: or(o.Consecutive5xx, balance.DefaultErrors),
		Gateway: or(o.ConsecutiveGateway, 0), // Envoy enforces it only if it is asked for
		Split:   o.SplitLocal, Local: or(o.ConsecutiveLocal, balance.DefaultErrors),
		Interval: o.Interval, Base: o.BaseEjection, MaxPercent: o.MaxEjectionPercent, MinHealthy: o.MinHealthPercent,
	}
	if out.Local == 0 {
		out.Local = balance.DefaultErrors // Istio leaves 0 to Envoy's default
	}
	if out.Interval <= 0 {
		out.Interval = balance.DefaultInterval
	}
	if out.Base <= 0 {
		out.Base = balance.DefaultBase
	}
	if out.MaxPercent <= 0 {
		out.MaxPercent = balance.DefaultMaxPercent
	}
	out.MaxTime = max(out.Base, balance.DefaultMaxTime)
	return out
}
