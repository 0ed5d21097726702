// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// clock is a time that a test moves.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func newTest(p Settings, list ...Member) (*Balancer, *clock) {
	c := &clock{time.Unix(1_700_000_000, 0)}
	b := New(Options{Now: c.now, Rand: rand.New(rand.NewPCG(1, 2)).Uint64})
	b.Update(p, list)
	return b, c
}

// endpoints are endpoints a, b, c... with weights.
func endpoints(weights ...uint32) (out []Member) {
	for i, w := range weights {
		out = append(out, Member{Key: string(rune('a' + i)), Weight: w})
	}
	return out
}

func many(n int) (out []Member) {
	for i := range n {
		out = append(out, Member{Key: fmt.Sprintf("10.0.%d.%d:80", i/256, i%256)})
	}
	return out
}

func pick(t testing.TB, b *Balancer, key Hash, tried func(int) bool) Picked {
	t.Helper()
	c, err := b.Pick(key, tried)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shares picks n times and returns how often each was picked. hold keeps that many
// requests under way.
func shares(t testing.TB, b *Balancer, n, hold int, key func() Hash) []int {
	t.Helper()
	got := make([]int, len(b.hosts))
	var open []Picked
	for range n {
		c := pick(t, b, key(), nil)
		got[c.Index]++
		if open = append(open, c); len(open) > hold {
			open[0].End()
			open = open[1:]
		}
	}
	for _, c := range open {
		c.End()
	}
	return got
}

func noHash() Hash { return Hash{} }

// TestShares: each algorithm gives each endpoint its part: exactly, where they take
// turns, and within five standard deviations where chance decides.
func TestShares(t *testing.T) {
	keys := rand.New(rand.NewPCG(3, 4))
	anyKey := func() Hash { return Hash{keys.Uint64(), true} }
	const n = 60_000
	for _, tt := range []struct {
		name    string
		p       Settings
		weights []uint32
		hold    int
		key     func() Hash
		within  float64 // of what is expected
	}{
		{"round robin", Settings{Algorithm: RoundRobin}, []uint32{1, 1, 1}, 0, noHash, 0},
		{"round robin by weight", Settings{Algorithm: RoundRobin}, []uint32{1, 2, 3}, 0, noHash, 0.001},
		{"least request", Settings{}, []uint32{1, 1, 1}, 6, noHash, 0.03},
		{"least request by weight, one at a time", Settings{}, []uint32{1, 2, 3}, 0, noHash, 0.001},
		{"random", Settings{Algorithm: Random}, []uint32{1, 1, 1}, 0, noHash, 0.03},
		{"random by weight", Settings{Algorithm: Random}, []uint32{1, 2, 3}, 0, noHash, 0.05},
		{"ring", Settings{Algorithm: RingHash, TableSize: 20_000}, []uint32{1, 1, 1}, 0, anyKey, 0.1},
		{"ring by weight", Settings{Algorithm: RingHash, TableSize: 20_000}, []uint32{1, 2, 3}, 0, anyKey, 0.1},
		{"ring, nothing to hash", Settings{Algorithm: RingHash, TableSize: 20_000}, []uint32{1, 1, 1}, 0, noHash, 0.1},
		{"maglev", Settings{Algorithm: Maglev}, []uint32{1, 1, 1}, 0, anyKey, 0.03},
		{"maglev by weight", Settings{Algorithm: Maglev}, []uint32{1, 2, 3}, 0, anyKey, 0.05},
	} {
		b, _ := newTest(tt.p, endpoints(tt.weights...)...)
		got := shares(t, b, n, tt.hold, tt.key)
		total := uint32(0)
		for _, w := range tt.weights {
			total += w
		}
		for i, w := range tt.weights {
			want := float64(n) * float64(w) / float64(total)
			if math.Abs(float64(got[i])-want) > want*tt.within+1 {
				t.Errorf("%s: %v, endpoint %d should have about %.0f", tt.name, got, i, want)
			}
		}
	}
}

// TestLeastRequest: an endpoint that is slow gets fewer requests; with round robin
// it gets as many.
func TestLeastRequest(t *testing.T) {
	for _, tt := range []struct {
		p       Settings
		weights []uint32
		most    int
	}{
		{Settings{}, []uint32{1, 1}, 300}, {Settings{}, []uint32{2, 1}, 200}, {Settings{Algorithm: RoundRobin}, []uint32{1, 1}, 501},
	} {
		b, _ := newTest(tt.p, endpoints(tt.weights...)...)
		slow := 0
		for range 1000 {
			if c := pick(t, b, Hash{}, nil); c.Index == 0 {
				slow++ // it never ends
			} else {
				c.End()
			}
		}
		if slow > tt.most || tt.p.Algorithm == RoundRobin && slow < 499 {
			t.Errorf("%+v %v: %d of 1000 to the slow one", tt.p, tt.weights, slow)
		}
	}
}

// moved is the part of the keys that lead to another endpoint than before, of those
// whose endpoint is still there.
func moved(t *testing.T, p Settings, before, after []Member) float64 {
	t.Helper()
	b, _ := newTest(p, before...)
	const n = 20_000
	was := make([]string, n)
	for i := range was {
		c := pick(t, b, HashOf(fmt.Sprint("key", i)), nil)
		was[i] = before[c.Index].Key
		c.End()
	}
	b.Update(p, after)
	there := map[string]bool{}
	for _, e := range after {
		there[e.Key] = true
	}
	changed := 0
	for i := range was {
		c := pick(t, b, HashOf(fmt.Sprint("key", i)), nil)
		if there[was[i]] && after[c.Index].Key != was[i] {
			changed++
		}
		c.End()
	}
	return float64(changed) / n
}

// TestHashMovesFewKeys: when one of 20 endpoints goes, nearly all keys of the others
// stay (each gets some more places on the ring, as in Envoy); when one comes, it
// gets its part, and little else moves. At random 95 % would move.
func TestHashMovesFewKeys(t *testing.T) {
	all := many(20)
	for _, tt := range []struct {
		name        string
		p           Settings
		gone, comes float64 // the most that may move
	}{
		{"ring", Settings{Algorithm: RingHash, TableSize: 4096}, 0.06, 0.11},
		{"maglev", Settings{Algorithm: Maglev}, 0.03, 0.08},
	} {
		gone, comes := moved(t, tt.p, all, all[1:]), moved(t, tt.p, all[1:], all)
		t.Logf("%s: %.2f %% of the keys of others move when one of 20 goes, %.2f %% when one comes", tt.name, 100*gone, 100*comes)
		if gone > tt.gone || comes > tt.comes || comes < 0.02 {
			t.Errorf("%s: moved %.4f when one went, %.4f when one came", tt.name, gone, comes)
		}
	}
	if m := moved(t, Settings{Algorithm: Random}, all, all[1:]); m < 0.5 {
		t.Errorf("the test sees nothing: %.2f moved at random", m)
	}
}

// TestHashIsSticky: a key leads to one endpoint, whatever else is under way, and to
// another one when that was tried.
func TestHashIsSticky(t *testing.T) {
	for _, p := range []Settings{{Algorithm: RingHash}, {Algorithm: Maglev}} {
		b, _ := newTest(p, many(5)...)
		for i := range 200 {
			key := HashOf(fmt.Sprint(i))
			first := pick(t, b, key, nil).Index
			if again := pick(t, b, key, nil).Index; again != first {
				t.Fatalf("%+v: %d, then %d", p, first, again)
			}
			tried := map[int]bool{}
			for range 5 {
				next := pick(t, b, key, func(i int) bool { return tried[i] }).Index
				if tried[next] {
					t.Fatalf("%+v: %d again, tried %v", p, next, tried)
				}
				tried[next] = true
			}
		}
	}
}

// TestTriedAreLeftOut: the attempts of a request go to all endpoints before they
// come to one again, with every algorithm.
func TestTriedAreLeftOut(t *testing.T) {
	for a := LeastRequest; a <= Maglev; a++ {
		for _, weights := range [][]uint32{{1, 1, 1}, {1, 5, 9}} {
			b, _ := newTest(Settings{Algorithm: a}, endpoints(weights...)...)
			tried := map[int]bool{}
			for range weights {
				tried[pick(t, b, HashOf("x"), func(i int) bool { return tried[i] }).Index] = true
			}
			if len(tried) != len(weights) {
				t.Errorf("algorithm %d %v: only %v", a, weights, tried)
			}
			pick(t, b, HashOf("x"), func(int) bool { return true }) // all were: any
		}
	}
}

// TestWarmup: an endpoint that joins begins with the least share and has all of it
// after the window; the first ones have it at once.
func TestWarmup(t *testing.T) {
	for _, a := range []Algorithm{RoundRobin, LeastRequest} {
		p := Settings{Algorithm: a, SlowStart: SlowStart{Window: 100 * time.Second, Least: 10}}
		b, c := newTest(p, endpoints(1, 1)...)
		if got := shares(t, b, 2000, 0, noHash); got[0] < 900 || got[1] < 900 {
			t.Errorf("the first ones have %v", got)
		}
		b.Update(p, endpoints(1, 1, 1))
		for _, at := range []struct {
			age  time.Duration
			want float64 // of 2.x parts
		}{{0, 0.1}, {50 * time.Second, 0.5}, {90 * time.Second, 0.9}, {100 * time.Second, 1}} {
			c.Time = time.Unix(1_700_000_000, 0).Add(at.age)
			got := shares(t, b, 3000, 0, noHash)
			want := 3000 * at.want / (2 + at.want)
			if math.Abs(float64(got[2])-want) > 0.1*want+10 {
				t.Errorf("algorithm %d after %v: %v, the new one should have %.0f", a, at.age, got, want)
			}
		}
	}
	// Aggression lets it grow faster at first.
	p := Settings{Algorithm: RoundRobin, SlowStart: SlowStart{Window: 100 * time.Second, Aggression: 2}}
	b, c := newTest(p, endpoints(1)...)
	b.Update(p, endpoints(1, 1))
	c.Time = c.Add(25 * time.Second) // the root of a quarter is a half
	if got := shares(t, b, 3000, 0, noHash); math.Abs(float64(got[1])-1000) > 50 {
		t.Errorf("with aggression 2: %v", got)
	}
}

// TestPlaces: priorities that are good enough take everything, then what they can;
// places of one priority have their shares.
func TestPlaces(t *testing.T) {
	list := many(8)
	for i := range list[:4] {
		list[4+i].Priority = 1
	}
	p := Settings{Algorithm: RoundRobin, Outlier: Outlier{On: true, Errors: 1, Interval: time.Hour, Base: time.Hour, MaxTime: time.Hour, MaxPercent: 100}}
	b, _ := newTest(p, list...)
	first := func() float64 {
		got := shares(t, b, 10_000, 0, noHash)
		return float64(got[0]+got[1]+got[2]+got[3]) / 10_000
	}
	eject := func(keys ...string) {
		for len(keys) > 0 {
			c := pick(t, b, Hash{}, nil)
			if c.h.Key == keys[0] {
				c.Report(Failed)
				keys = keys[1:]
			}
			c.End()
		}
	}
	if got := first(); got != 1 {
		t.Errorf("all good: %.2f", got)
	}
	eject(list[0].Key)
	if got := first(); got != 1 { // 3/4 * 1.4 > 1
		t.Errorf("one of four is out: %.2f", got)
	}
	eject(list[1].Key) // 2/4 * 1.4
	if got := first(); math.Abs(got-0.7) > 0.03 {
		t.Errorf("two of four are out: %.2f, want 0.70", got)
	}
	eject(list[2].Key, list[3].Key)
	if got := first(); got != 0 {
		t.Errorf("all are out: %.2f", got)
	}

	list = many(4)
	for i := range list {
		list[i].Locality, list[i].Share = uint16(i/2+1), []uint32{80, 20}[i/2]
	}
	b, _ = newTest(Settings{Algorithm: RoundRobin}, list...)
	if got := shares(t, b, 10_000, 0, noHash); math.Abs(float64(got[0]+got[1])-8000) > 250 || math.Abs(float64(got[0]-got[1])) > 1 {
		t.Errorf("shares %v, want 80 to 20", got)
	}
}

// TestUpdate: endpoints keep what is known of them when others come and go.
func TestUpdate(t *testing.T) {
	b, _ := newTest(Settings{}, many(3)...)
	var open []Picked
	for range 30 {
		open = append(open, pick(t, b, Hash{}, nil))
	}
	b.Update(Settings{}, many(4))
	for range 8 { // the new one has none under way, so it is taken whenever it is drawn
		c := pick(t, b, Hash{}, nil)
		open = append(open, c)
	}
	if b.Active() != 38 {
		t.Errorf("%d under way", b.Active())
	}
	b.Update(Settings{}, many(1))
	for _, c := range open {
		c.Report(Failed) // of what is gone as well
		c.End()
	}
	if b.Active() != 0 {
		t.Errorf("%d under way at the end", b.Active())
	}
	b.Update(Settings{}, nil)
	if _, err := b.Pick(Hash{}, nil); !errors.Is(err, ErrNone) {
		t.Errorf("without endpoints: %v", err)
	}
}

// TestLimits: no more is taken than there may be, and who waits is woken.
func TestLimits(t *testing.T) {
	b, _ := newTest(Settings{CircuitBreakers: CircuitBreakers{Connections: 2, Requests: 1}}, many(1)...)
	freed := b.Freed()
	for i, want := range []bool{true, true, false} {
		if got := b.Take(Connections); got != want {
			t.Errorf("connection %d: %v", i, got)
		}
	}
	if !b.Take(Requests) || b.Take(Requests) || !b.Take(Pending) || !b.Take(Pending) {
		t.Error("limits of another resource")
	}
	select {
	case <-freed:
		t.Error("woken too early")
	default:
	}
	b.Give(Connections)
	<-freed
	if !b.Take(Connections) {
		t.Error("no room after one was given back")
	}
}

func BenchmarkPick(b *testing.B) {
	for _, bb := range []struct {
		name string
		p    Settings
		n    int
	}{
		{"one", Settings{}, 1}, {"least", Settings{}, 3}, {"robin", Settings{Algorithm: RoundRobin}, 3}, {"least100", Settings{}, 100},
		{"ring", Settings{Algorithm: RingHash}, 3}, {"maglev", Settings{Algorithm: Maglev}, 3},
		{"outlier", Settings{Outlier: Outlier{On: true, Errors: 5, Interval: time.Second, Base: time.Second, MaxTime: time.Minute, MaxPercent: 10}}, 3},
	} {
		b.Run(bb.name, func(b *testing.B) {
			l, _ := newTest(bb.p, many(bb.n)...)
			l.o.Now = time.Now
			b.ReportAllocs()
			for b.Loop() {
				c, _ := l.Pick(Hash{12345, true}, nil)
				c.Report(Good)
				c.End()
			}
		})
	}
	b.Run("weighted100", func(b *testing.B) {
		list := many(100)
		list[0].Weight = 2
		l, _ := newTest(Settings{}, list...)
		b.ReportAllocs()
		for b.Loop() {
			c, _ := l.Pick(Hash{}, nil)
			c.End()
		}
	})
}

// TestPickAllocatesNothing is the hot path's.
func TestPickAllocatesNothing(t *testing.T) {
	for _, weights := range [][]uint32{{1}, {1, 1, 1}, {1, 2, 3}} {
		for a := LeastRequest; a <= Maglev; a++ {
			b, _ := newTest(Settings{Algorithm: a}, endpoints(weights...)...)
			key := HashOf("x")
			if n := testing.AllocsPerRun(100, func() {
				c, _ := b.Pick(key, nil)
				c.Report(Good)
				c.End()
			}); n > 0 {
				t.Errorf("algorithm %d, weights %v: %.0f allocations", a, weights, n)
			}
		}
	}
}
