// SPDX-License-Identifier: Apache-2.0

// Package cow has a hash map of which changed copies are cheap: a copy shares
// everything with its original but the parts that were written to. A Map is
// immutable, so readers need no locks and an old one stays what it was.
package cow

import (
	"iter"
	"maps"
)

// Map is an immutable hash map. Its zero value is empty. A lookup costs a
// hash and one probe of a Go map; it allocates nothing.
type Map[K comparable, V any] struct {
	hash   func(K) uint64
	shards []*shard[K, V] // a power of 2 of them, or none
	n      int
}

type shard[K comparable, V any] struct{ m map[K]V }

// perShard is how many keys a shard has when it is built: what one write to
// it copies. Shards may grow to four times as many before all are split anew.
const perShard = 8

// New returns an empty Map whose keys are spread by hash.
func New[K comparable, V any](hash func(K) uint64) Map[K, V] { return Map[K, V]{hash: hash} }

// Len returns the number of keys.
func (m *Map[K, V]) Len() int { return m.n }

// Get returns the value of a key.
func (m *Map[K, V]) Get(k K) (V, bool) {
	if len(m.shards) == 0 {
		var none V
		return none, false
	}
	v, ok := m.shards[m.hash(k)&uint64(len(m.shards)-1)].m[k]
	return v, ok
}

// All ranges over the keys and values, in no order.
func (m *Map[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, s := range m.shards {
			for k, v := range s.m {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

// Changed ranges over the keys whose shards differ between old and m, with
// what they had and have; a key that is missing on one side has present false
// there. Values may be equal. Its cost is that of the shards that differ when
// m was made from old by an Edit, and that of both maps otherwise.
func (m *Map[K, V]) Changed(old *Map[K, V]) iter.Seq2[K, Difference[V]] {
	return func(yield func(K, Difference[V]) bool) {
		if len(m.shards) != len(old.shards) {
			for k, v := range old.All() {
				now, ok := m.Get(k)
				if !yield(k, Difference[V]{Old: v, Had: true, New: now, Has: ok}) {
					return
				}
			}
			for k, v := range m.All() {
				if _, had := old.Get(k); !had && !yield(k, Difference[V]{New: v, Has: true}) {
					return
				}
			}
			return
		}
		for i, s := range m.shards {
			if o := old.shards[i]; o != s && !s.changed(o, yield) {
				return
			}
		}
	}
}

func (s *shard[K, V]) changed(o *shard[K, V], yield func(K, Difference[V]) bool) bool {
	for k, v := range o.m {
		now, ok := s.m[k]
		if !yield(k, Difference[V]{Old: v, Had: true, New: now, Has: ok}) {
			return false
		}
	}
	for k, v := range s.m {
		if _, had := o.m[k]; !had && !yield(k, Difference[V]{New: v, Has: true}) {
			return false
		}
	}
	return true
}

// Difference is what a key had in one Map and has in another.
type Difference[V any] struct {
	Old, New V
	Had, Has bool
}

// Edit collects writes to a copy of a Map. Use it from one goroutine.
type Edit[K comparable, V any] struct {
	m     Map[K, V]
	owned []bool // shards that belong to this Edit alone
}

// Edit returns an Edit that starts as a copy of m.
func (m *Map[K, V]) Edit() *Edit[K, V] {
	e := &Edit[K, V]{m: *m, owned: make([]bool, len(m.shards))}
	e.m.shards = append([]*shard[K, V](nil), m.shards...)
	return e
}

// Get returns the value of a key as written so far.
func (e *Edit[K, V]) Get(k K) (V, bool) { return e.m.Get(k) }

// Set writes a key.
func (e *Edit[K, V]) Set(k K, v V) {
	if e.m.n >= 4*perShard*len(e.m.shards) {
		e.split()
	}
	s := e.own(k)
	if _, had := s.m[k]; !had {
		e.m.n++
	}
	s.m[k] = v
}

// Delete removes a key.
func (e *Edit[K, V]) Delete(k K) {
	if _, had := e.m.Get(k); had {
		delete(e.own(k).m, k)
		e.m.n--
	}
}

// Map returns the outcome. The Edit must not be used any more.
func (e *Edit[K, V]) Map() Map[K, V] { return e.m }

// own returns the shard of k, copied if it is shared with another Map.
func (e *Edit[K, V]) own(k K) *shard[K, V] {
	i := e.m.hash(k) & uint64(len(e.m.shards)-1)
	if !e.owned[i] {
		e.m.shards[i] = &shard[K, V]{maps.Clone(e.m.shards[i].m)}
		e.owned[i] = true
	}
	return e.m.shards[i]
}

// split spreads the keys over as many shards as their number asks for.
func (e *Edit[K, V]) split() {
	n := 16
	for n*perShard < 2*e.m.n {
		n *= 2
	}
	old := e.m
	e.m.shards = make([]*shard[K, V], n)
	e.owned = make([]bool, n)
	for i := range e.m.shards {
		e.m.shards[i] = &shard[K, V]{make(map[K]V)}
		e.owned[i] = true
	}
	for k, v := range old.All() {
		e.m.shards[e.m.hash(k)&uint64(n-1)].m[k] = v
	}
}
