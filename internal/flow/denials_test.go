// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/egressd/egressd/policy"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func denial(workload, command, dst string) Event {
	return Event{
		Time: noon, Workload: workload, Kind: Decision, Layer: Kernel, Dst: netip.MustParseAddrPort(dst),
		Reason: policy.ReasonNoRule, Process: Process{PID: 7, Command: command},
	}
}

// book is a table, and what it told.
type book struct {
	*DenialTable
	full int
	list []Event
}

func newBook() *book { return &book{DenialTable: NewDenials()} }

func (b *book) add(e Event, at time.Time) {
	if e, now := b.Add(KeyOf(&e), at, func() Event { b.full++; e.Time = at; return e }); now {
		b.list = append(b.list, e)
	}
}

func (b *book) flush(at time.Time, all bool) {
	b.Flush(at, all, func(e Event) { b.list = append(b.list, e) })
}

// find returns the entries for a destination.
func (b *book) find(workload, dst string) []Event {
	var out []Event
	for _, e := range b.List() {
		if e.Workload == workload && e.Dst.IsValid() && e.Dst.String() == dst {
			out = append(out, e)
		}
	}
	return out
}

// sum is the number of denials that the table accounts for.
func (b *book) sum() int {
	n := 0
	for _, e := range b.List() {
		n += max(e.Count, 1)
	}
	return n
}

// TestDenials: the first of each kind is told at once, others as a number, and
// the table has all of them.
func TestDenials(t *testing.T) {
	b := newBook()
	for range 1000 {
		for _, dst := range []string{"192.0.2.1:80", "192.0.2.1:81", "[2001:db8::1]:80"} {
			b.add(denial("a", "curl", dst), noon)
		}
		b.add(denial("b", "curl", "192.0.2.1:80"), noon)
	}
	if len(b.list) != 4 || b.full != 4 {
		t.Fatalf("told %d, made %d, want 4", len(b.list), b.full)
	}
	b.flush(noon.Add(FoldAfter-1), false)
	if len(b.list) != 4 {
		t.Errorf("too early: %v", b.list[4:])
	}
	b.flush(noon.Add(FoldAfter), false)
	if len(b.list) != 8 {
		t.Fatalf("told %d", len(b.list))
	}
	for _, e := range b.list[4:] {
		if e.More != 999 || e.Duration != FoldAfter || e.Time != noon.Add(FoldAfter) || e.Process.PID != 0 || !e.Denied() {
			t.Errorf("%+v", e)
		}
	}
	// It goes on: still one line in ten seconds.
	b.add(denial("a", "curl", "192.0.2.1:80"), noon.Add(FoldAfter+1))
	if len(b.list) != 8 {
		t.Errorf("told %v", b.list[8:])
	}
	b.flush(noon.Add(FoldAfter+2), true)
	if len(b.list) != 9 || b.list[8].More != 1 {
		t.Errorf("told %v", b.list[8:])
	}
	// It stopped: the next is told at once.
	b.flush(noon.Add(3*FoldAfter), false)
	b.add(denial("a", "curl", "192.0.2.1:80"), noon.Add(3*FoldAfter))
	if len(b.list) != 10 || b.list[9].More != 0 {
		t.Errorf("told %v", b.list[9:])
	}
	got := b.find("a", "192.0.2.1:80")
	if len(got) != 1 || got[0].Count != 1002 || got[0].First != noon || got[0].Time != noon.Add(3*FoldAfter) || got[0].Process.PID != 7 {
		t.Errorf("the table has %+v", got)
	}
	if len(b.List()) != 4 || b.sum() != 4002 {
		t.Errorf("%d kinds, %d denials", len(b.List()), b.sum())
	}
}

// TestFloodOfKinds: a program that makes new kinds all the time takes little
// room and time, and hides neither what was there before nor what another
// program of its workload, or another workload, does after it.
func TestFloodOfKinds(t *testing.T) {
	const many = 100000
	b := newBook()
	b.add(denial("loud", "scan", "192.0.2.1:1"), noon)
	b.add(denial("loud", "curl", "192.0.2.1:2"), noon)
	for i := range many {
		b.add(denial("loud", "scan", fmt.Sprintf("[2001:db8::%x:%x]:80", i>>16, i&0xffff)), noon)
	}
	b.add(denial("loud", "curl", "192.0.2.1:3"), noon)
	b.add(denial("quiet", "curl", "192.0.2.1:4"), noon)
	for i, at := range []struct{ workload, dst string }{
		{"loud", "192.0.2.1:1"}, {"loud", "192.0.2.1:2"}, {"loud", "192.0.2.1:3"}, {"quiet", "192.0.2.1:4"},
	} {
		if got := b.find(at.workload, at.dst); len(got) != 1 {
			t.Errorf("denial %d is there %d times", i+1, len(got))
		}
	}
	if n := len(b.list); n > kindsEach+8 || b.list[n-1].Workload != "quiet" || b.list[n-2].Dst.Port() != 3 {
		t.Errorf("told %d", n)
	}
	if b.full > kindsEach+8 || len(b.kinds) > kindsEach+8 {
		t.Errorf("made %d events for %d kinds", b.full, len(b.kinds))
	}
	if b.sum() != many+4 {
		t.Errorf("%d of %d denials are accounted for", b.sum(), many+4)
	}
	if s := b.Stats(); s.Kinds != kindsEach+1 || s.Folded < many-kindsEach {
		t.Errorf("%+v", s)
	}
	b.flush(noon, true)
	if e := b.list[len(b.list)-1]; e.More < many-kindsEach-8 || e.Detail != TooMany || e.Dst.IsValid() || e.Process != (Process{}) {
		t.Errorf("told %+v", e)
	}
}

// TestFloodOfPrograms: nor does one that calls itself something else each time.
func TestFloodOfPrograms(t *testing.T) {
	b := newBook()
	b.add(denial("loud", "curl", "192.0.2.1:1"), noon)
	const many = 20000
	for i := range many {
		b.add(denial("loud", fmt.Sprint("p", i), "192.0.2.1:2"), noon)
	}
	b.add(denial("quiet", "curl", "192.0.2.1:3"), noon)
	if len(b.find("loud", "192.0.2.1:1")) != 1 || len(b.find("quiet", "192.0.2.1:3")) != 1 || b.sum() != many+2 || len(b.kinds) > kindsEach+8 {
		t.Errorf("%d kinds, %d denials", len(b.kinds), b.sum())
	}
}

// TestFloodOfWorkloads: many workloads share all there is.
func TestFloodOfWorkloads(t *testing.T) {
	b := newBook()
	b.add(denial("first", "curl", "192.0.2.1:1"), noon)
	total := 1
	for w := range 20 {
		for i := range kindsEach + 100 {
			b.add(denial(fmt.Sprint("w", w), "scan", fmt.Sprintf("[2001:db8::%x:%x]:80", w, i)), noon)
			total++
		}
	}
	b.add(denial("last", "curl", "192.0.2.1:2"), noon)
	if len(b.find("first", "192.0.2.1:1")) != 1 || len(b.find("last", "192.0.2.1:2")) != 1 || b.sum() != total+1 {
		t.Errorf("%d of %d denials", b.sum(), total+1)
	}
	if s := b.Stats(); s.Kinds > kindsAll || len(b.kinds) > kindsAll+30 {
		t.Errorf("%+v, %d", s, len(b.kinds))
	}
	least := kindsAll
	for w := range 20 {
		n := 0
		for _, e := range b.List() {
			if e.Workload == fmt.Sprint("w", w) {
				n++
			}
		}
		least = min(least, n)
	}
	if least < kindsAll/40 {
		t.Errorf("one of 20 has %d kinds", least)
	}
}

// TestOldKindsMakeRoom: what was not seen for a day goes when room is needed,
// and not before.
func TestOldKindsMakeRoom(t *testing.T) {
	b := newBook()
	for i := range kindsEach {
		b.add(denial("w", "scan", fmt.Sprintf("[2001:db8::%x]:80", i)), noon)
	}
	later := noon.Add(forgetAfter)
	b.add(denial("w", "scan", "[2001:db8::1]:80"), later) // one goes on
	b.add(denial("w", "scan", "192.0.2.1:1"), later)
	if len(b.List()) != 2 || len(b.find("w", "192.0.2.1:1")) != 1 || b.Stats().Forgotten != kindsEach-1 {
		t.Errorf("%d kinds, %+v", len(b.List()), b.Stats())
	}
}
