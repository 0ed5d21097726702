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

func denial(workload, dst string) Event {
	return Event{Workload: workload, Kind: Decision, Layer: Kernel, Dst: netip.MustParseAddrPort(dst), Reason: policy.ReasonNoRule, Process: Process{PID: 7}}
}

// told is what became of events.
type told struct {
	f    *Folder
	full int
	list []Event
}

func (o *told) add(e Event, at time.Time) {
	if e, first := o.f.Fold(KeyOf(&e), at, func() Event { o.full++; return e }); first {
		o.list = append(o.list, e)
	}
}

func (o *told) flush(at time.Time, all bool) {
	o.f.Flush(at, all, func(e Event) { o.list = append(o.list, e) })
}

// TestFold: the first of each kind is told at once, others as a number.
func TestFold(t *testing.T) {
	o := told{f: NewFolder()}
	for range 1000 {
		for _, dst := range []string{"192.0.2.1:80", "192.0.2.1:81", "[2001:db8::1]:80"} {
			o.add(denial("a", dst), noon)
		}
		o.add(denial("b", "192.0.2.1:80"), noon)
	}
	if len(o.list) != 4 || o.full != 4 {
		t.Fatalf("told %d, made %d, want 4", len(o.list), o.full)
	}
	o.flush(noon.Add(FoldAfter-1), false)
	if len(o.list) != 4 {
		t.Errorf("too early: %v", o.list[4:])
	}
	o.flush(noon.Add(FoldAfter), false)
	if len(o.list) != 8 {
		t.Fatalf("told %d", len(o.list))
	}
	for _, e := range o.list[4:] {
		if e.More != 999 || e.Duration != FoldAfter || e.Time != noon.Add(FoldAfter) || e.Process.PID != 0 || !e.Denied() {
			t.Errorf("%+v", e)
		}
	}
	// It goes on: still one line in ten seconds.
	o.add(denial("a", "192.0.2.1:80"), noon.Add(FoldAfter+1))
	if len(o.list) != 8 {
		t.Errorf("told %v", o.list[8:])
	}
	o.flush(noon.Add(FoldAfter+2), true)
	if len(o.list) != 9 || o.list[8].More != 1 {
		t.Errorf("told %v", o.list[8:])
	}
	// It stopped: the next is told at once.
	o.flush(noon.Add(3*FoldAfter), false)
	o.add(denial("a", "192.0.2.1:80"), noon.Add(3*FoldAfter))
	if len(o.list) != 10 || o.list[9].More != 0 {
		t.Errorf("told %v", o.list[9:])
	}
}

// TestFoldIsBounded: one workload that makes new kinds all the time takes
// little room and time, and hides nothing of another.
func TestFoldIsBounded(t *testing.T) {
	o := told{f: NewFolder()}
	const many = 100000
	for i := range many {
		o.add(denial("loud", fmt.Sprintf("[2001:db8::%x:%x]:80", i>>16, i&0xffff)), noon)
	}
	o.add(denial("quiet", "192.0.2.1:80"), noon)
	if len(o.list) != foldKinds+2 || o.full != foldKinds+2 || o.list[foldKinds+1].Workload != "quiet" {
		t.Fatalf("told %d, made %d", len(o.list), o.full)
	}
	if len(o.f.kinds) != foldKinds+2 {
		t.Errorf("%d kinds", len(o.f.kinds))
	}
	o.flush(noon, true)
	if e := o.list[len(o.list)-1]; e.More != many-foldKinds-1 || e.Detail != TooMany || e.Dst.IsValid() {
		t.Errorf("told %+v", e)
	}
	for range 2 { // told, then forgotten
		o.flush(noon.Add(time.Hour), false)
	}
	if len(o.f.kinds) != 0 || len(o.f.of) != 0 {
		t.Errorf("kept %d kinds of %d workloads", len(o.f.kinds), len(o.f.of))
	}
}
