// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Hash is what a request gives to choose by; when it gives nothing (Set is
// false), an endpoint is drawn at random.
type Hash struct {
	Sum uint64
	Set bool
}

// HashOf is the hash of a text (Envoy's: xxHash64).
func HashOf(s string) Hash { return Hash{xxhash.Sum64String(s), true} }

// Sizes of tables.
const (
	defaultRing = 1024
	// maxRing is Envoy's default for the greatest ring
	// (config.cluster.v3.Cluster.RingHashLbConfig.maximum_ring_size).
	maxRing       = 8 << 20
	defaultMaglev = 65537
	maxMaglev     = 5000011
)

// table says which of a group's good endpoints a hash leads to.
type table struct {
	ring   []point
	maglev []uint32
}

// point is an entry of a ring: hashes up to at lead to the endpoint.
type point struct {
	at   uint64
	good uint32
}

func (b *Balancer) hashes() bool { return b.p.Algorithm == RingHash || b.p.Algorithm == Maglev }

// TableBytes is how much memory the tables of a policy need for a number of
// endpoints, about.
func (p *Settings) TableBytes(endpoints int) int64 {
	switch p.Algorithm {
	case RingHash:
		return 16 * int64(max(min(cmp.Or(p.TableSize, defaultRing), maxRing), uint64(endpoints)))
	case Maglev:
		return 4 * int64(min(cmp.Or(p.TableSize, defaultMaglev), maxMaglev))
	}
	return 0
}

// hashed finds the endpoint of a hash. One that was tried is stepped over.
func (b *Balancer) hashed(g *group, list []*host, key Hash, tried func(int) bool) *host {
	if !key.Set {
		key.Sum = b.o.Rand()
	}
	if g.table == nil {
		g.table = b.newTable(g.good)
	}
	for step := range uint64(len(g.good) + 4) {
		if h := g.good[g.table.find(key.Sum, step)]; tried == nil || !tried(h.index) {
			return h
		}
	}
	return list[key.Sum%uint64(len(list))]
}

func (b *Balancer) newTable(good []*host) *table {
	if b.p.Algorithm == Maglev {
		return &table{maglev: newMaglev(good, min(cmp.Or(b.p.TableSize, defaultMaglev), maxMaglev))}
	}
	return &table{ring: newRing(good, min(cmp.Or(b.p.TableSize, defaultRing), maxRing))}
}

// find is the endpoint that a hash leads to, or the one after step others, as in
// Envoy: further on the ring, or with another hash.
func (t *table) find(sum, step uint64) uint32 {
	if t.maglev != nil {
		if step > 0 {
			sum ^= math.MaxUint64 - step + 1
		}
		return t.maglev[sum%uint64(len(t.maglev))]
	}
	i, _ := slices.BinarySearchFunc(t.ring, sum, func(p point, sum uint64) int { return cmp.Compare(p.at, sum) })
	return t.ring[(uint64(i)+step)%uint64(len(t.ring))].good
}

// newRing places each endpoint on a ring as often as its weight asks for, so that
// the one with the least weight is there a whole number of times (Envoy's
// RingHashLoadBalancer).
func newRing(good []*host, least uint64) []point {
	total, lightest := 0.0, math.Inf(1)
	for _, h := range good {
		total, lightest = total+weightOf(h), min(lightest, weightOf(h))
	}
	lightest /= total
	scale := min(math.Ceil(lightest*float64(least))/lightest, maxRing)
	ring := make([]point, 0, int(math.Ceil(scale)))
	upTo := 0.0
	for i, h := range good {
		upTo += scale * weightOf(h) / total
		key := append(make([]byte, 0, len(h.Key)+8), h.Key...)
		key = append(key, '_')
		for n := int64(0); float64(len(ring)) < upTo; n++ {
			ring = append(ring, point{xxhash.Sum64(strconv.AppendInt(key, n, 10)), uint32(i)})
		}
	}
	slices.SortFunc(ring, func(x, y point) int { return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.good, y.good)) })
	return ring
}

// newMaglev lets the endpoints take turns, by their weights, in taking the next
// free place of their own order of places (Eisenbud et al., "Maglev", NSDI 2016,
// 3.4; with weights as in Envoy's MaglevTable).
func newMaglev(good []*host, size uint64) []uint32 {
	type entry struct {
		offset, skip, next uint64
		weight, target     float64
	}
	entries, greatest := make([]entry, len(good)), 0.0
	for i, h := range good {
		d := xxhash.NewWithSeed(1)
		_, _ = d.WriteString(h.Key) // never fails
		entries[i] = entry{offset: xxhash.Sum64String(h.Key) % size, skip: d.Sum64()%max(size-1, 1) + 1, weight: weightOf(h)}
		greatest = max(greatest, weightOf(h))
	}
	const free = math.MaxUint32
	out := make([]uint32, size)
	for i := range out {
		out[i] = free
	}
	for round, filled := 1.0, uint64(0); filled < size; round++ {
		for i := range entries {
			e := &entries[i]
			if round*e.weight < e.target {
				continue
			}
			e.target += greatest
			at := (e.offset + e.skip*e.next) % size
			for ; out[at] != free; at = (e.offset + e.skip*e.next) % size {
				e.next++
			}
			out[at] = uint32(i)
			e.next++
			if filled++; filled == size {
				break
			}
		}
	}
	return out
}
