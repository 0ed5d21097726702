// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"errors"
	"testing"
	"time"
)

// strict is an outlier detection of three errors.
func strict(change func(*Outlier)) Settings {
	o := Outlier{On: true, Errors: 3, Interval: 10 * time.Second, Base: 30 * time.Second, MaxTime: 300 * time.Second, MaxPercent: 100}
	if change != nil {
		change(&o)
	}
	return Settings{Algorithm: RoundRobin, Outlier: o}
}

// on has an endpoint asked, with results.
func on(t *testing.T, b *Balancer, index int, results ...RequestResult) {
	t.Helper()
	for _, r := range results {
		for tries := 0; ; tries++ {
			c := pick(t, b, Hash{}, nil)
			c.End()
			if c.Index == index {
				c.Report(r)
				break
			}
			if tries > 100 {
				t.Fatalf("endpoint %d is not chosen", index)
			}
		}
	}
}

// used says whether an endpoint is chosen.
func used(t *testing.T, b *Balancer, index int) bool {
	t.Helper()
	for range 50 {
		c := pick(t, b, Hash{}, nil)
		c.End()
		if c.Index == index {
			return true
		}
	}
	return false
}

// TestEjection: which results take an endpoint out.
func TestEjection(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*Outlier)
		results []RequestResult
		out     bool
	}{
		{"too few", nil, []RequestResult{Failed, Failed}, false},
		{"enough", nil, []RequestResult{Failed, Failed, Failed}, true},
		{"not one after the other", nil, []RequestResult{Failed, Failed, Good, Failed, Failed}, false},
		{"of all kinds", nil, []RequestResult{Failed, FailedGateway, FailedLocally}, true},
		{"off", func(o *Outlier) { o.Errors = 0 }, []RequestResult{Failed, Failed, Failed, Failed}, false},
		{"gateway errors", func(o *Outlier) { o.Errors, o.Gateway = 0, 2 }, []RequestResult{FailedGateway, FailedLocally}, true},
		{"other errors are none of a gateway", func(o *Outlier) { o.Errors, o.Gateway = 0, 2 }, []RequestResult{FailedGateway, Failed, FailedGateway}, false},
		{"local failures apart", func(o *Outlier) { o.Split, o.Local = true, 4 }, []RequestResult{FailedLocally, FailedLocally, FailedLocally}, false},
		{"enough local failures", func(o *Outlier) { o.Split, o.Local = true, 3 }, []RequestResult{FailedLocally, FailedLocally, FailedLocally}, true},
		{"an error is an answer", func(o *Outlier) { o.Split, o.Local, o.Errors = true, 2, 9 }, []RequestResult{FailedLocally, Failed, FailedLocally}, false},
	} {
		b, _ := newTest(strict(tt.change), many(3)...)
		on(t, b, 1, tt.results...)
		if out := !used(t, b, 1); out != tt.out || (b.Ejected() > 0) != tt.out {
			t.Errorf("%s: out %v", tt.name, out)
		}
	}
}

// TestReturn: an endpoint is out for the base time, then for twice as long, and
// never for longer than the greatest; it returns at a tick of the interval. Ticks
// without an error take times off again.
func TestReturn(t *testing.T) {
	b, c := newTest(strict(nil), many(3)...)
	start := c.Time
	fail := func() { on(t, b, 1, Failed, Failed, Failed) }
	returns := func(want time.Duration) {
		t.Helper()
		from := c.Time
		for !used(t, b, 1) {
			if c.Time = c.Add(time.Second); c.Sub(from) > time.Hour {
				t.Fatal("it never returns")
			}
		}
		if got := c.Sub(from); got != want {
			t.Errorf("out for %v, want %v", got, want)
		}
	}
	fail()
	returns(30 * time.Second)
	fail()
	returns(60 * time.Second)
	c.Time = c.Add(3 * time.Second)
	fail()
	returns(97 * time.Second) // 90, and the tick after it
	for range 10 {
		fail()
		for !used(t, b, 1) {
			c.Time = c.Add(time.Second)
		}
	}
	c.Time = start.Add(c.Sub(start).Truncate(10 * time.Second))
	fail()
	returns(300 * time.Second)
	c.Time = c.Add(200 * time.Second) // twenty ticks
	if !used(t, b, 1) {
		t.Error("it went without an error")
	}
	fail()
	returns(30 * time.Second)
}

// TestMostEjected: no more endpoints are out than there may be; the bound counts
// for the first one as well.
func TestMostEjected(t *testing.T) {
	for _, tt := range []struct{ endpoints, percent, out int }{
		{3, 10, 0}, {10, 10, 1}, {3, 34, 1}, {3, 67, 2}, {3, 100, 3}, {20, 10, 2}, {1, 100, 1},
	} {
		b, _ := newTest(strict(func(o *Outlier) { o.MaxPercent = tt.percent }), many(tt.endpoints)...)
		for range 500 {
			c, err := b.Pick(Hash{}, nil)
			if err != nil {
				break
			}
			c.Report(Failed)
			c.End()
		}
		if got := b.Ejected(); got != tt.out {
			t.Errorf("%d endpoints, %d %%: %d are out, want %d", tt.endpoints, tt.percent, got, tt.out)
		}
	}
}

// TestPanic: below the least part of good endpoints all are used; without such a
// part nothing is.
func TestPanic(t *testing.T) {
	for percent, all := range map[int]bool{0: false, 34: true} {
		b, _ := newTest(strict(func(o *Outlier) { o.MinHealthy = percent }), many(3)...)
		on(t, b, 0, Failed, Failed, Failed)
		on(t, b, 1, Failed, Failed, Failed)
		if got := used(t, b, 0); got != all {
			t.Errorf("%d %%: an ejected endpoint is used: %v", percent, got)
		}
		if all {
			continue
		}
		on(t, b, 2, Failed, Failed, Failed)
		if _, err := b.Pick(Hash{}, nil); !errors.Is(err, ErrUnhealthy) {
			t.Errorf("all are out: %v", err)
		}
	}
}

// TestEjectionIsTold: with its endpoint, cause and time.
func TestEjectionIsTold(t *testing.T) {
	var told []Ejection
	b, _ := newTest(strict(func(o *Outlier) { o.Gateway = 2 }), many(2)...)
	b.o.Ejected = func(e Ejection) { told = append(told, e) }
	on(t, b, 1, FailedGateway, FailedGateway)
	on(t, b, 0, Failed, Failed, Failed)
	if len(told) != 2 || told[0] != (Ejection{"10.0.0.1:80", ConsecutiveGateway, 30 * time.Second}) || told[1].Cause != ConsecutiveErrors {
		t.Errorf("%+v", told)
	}
}

// TestSwitchedOff: who was out comes back when the rule goes.
func TestSwitchedOff(t *testing.T) {
	b, _ := newTest(strict(nil), many(2)...)
	on(t, b, 1, Failed, Failed, Failed)
	b.Update(Settings{Algorithm: RoundRobin}, many(2))
	if !used(t, b, 1) {
		t.Error("it is out without outlier detection")
	}
}
