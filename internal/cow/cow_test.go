// SPDX-License-Identifier: Apache-2.0

package cow

import (
	"hash/maphash"
	"maps"
	"math/rand/v2"
	"strconv"
	"testing"
)

var seed = maphash.MakeSeed()

func hash(s string) uint64 { return maphash.String(seed, s) }

// TestAgainstMap: random edits leave a Map like a Go map with the same ones,
// every older Map stays as it was, and Changed tells the difference.
func TestAgainstMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	m, want := New[string, int](hash), map[string]int{}
	for round := range 60 {
		old, was := m, maps.Clone(want)
		e := m.Edit()
		for range r.IntN(400) {
			k := strconv.Itoa(r.IntN(3000))
			if r.IntN(3) == 0 {
				e.Delete(k)
				delete(want, k)
			} else {
				e.Set(k, round)
				want[k] = round
			}
		}
		m = e.Map()
		for name, c := range map[string]struct {
			m    *Map[string, int]
			want map[string]int
		}{"new": {&m, want}, "old": {&old, was}} {
			if got := maps.Collect(c.m.All()); !maps.Equal(got, c.want) || c.m.Len() != len(c.want) {
				t.Fatalf("round %d, %s map: %d keys, Len %d; want %d", round, name, len(got), c.m.Len(), len(c.want))
			}
		}
		rebuilt := maps.Clone(was)
		for k, c := range m.Changed(&old) {
			if v, had := was[k]; had != c.Had || v != c.Old {
				t.Fatalf("%s: had %v %v, want %v %v", k, c.Had, c.Old, had, v)
			}
			if c.Has {
				rebuilt[k] = c.New
			} else {
				delete(rebuilt, k)
			}
		}
		if !maps.Equal(rebuilt, want) {
			t.Fatalf("round %d: the changes do not lead from the old map to the new one", round)
		}
	}
}

// many is a Map of 100,000 keys.
func many() Map[string, int] {
	m := New[string, int](hash)
	e := m.Edit()
	for i := range 100_000 {
		e.Set(strconv.Itoa(i), i)
	}
	return e.Map()
}

// TestChangedIsSmall: one write among many costs one shard.
func TestChangedIsSmall(t *testing.T) {
	m := many()
	e := m.Edit()
	e.Set("one more", 1)
	next := e.Map()
	n := 0
	for range next.Changed(&m) {
		n++
	}
	if n == 0 || n > 8*perShard {
		t.Errorf("%d keys looked at for one write", n)
	}
	if a := testing.AllocsPerRun(100, func() { next.Get("50000") }); a != 0 {
		t.Errorf("Get allocates %v times", a)
	}
}

func BenchmarkGet(b *testing.B) {
	m := many()
	for b.Loop() {
		m.Get("50000")
	}
}

func BenchmarkEditOne(b *testing.B) {
	m := many()
	for b.Loop() {
		e := m.Edit()
		e.Set("one more", 1)
		_ = e.Map()
	}
}
