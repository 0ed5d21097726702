// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"testing"
	"time"
)

// TestLinesOfOne: who makes denials without end has a few lines a second, the
// rest is a number, and who is quiet has all lines.
func TestLinesOfOne(t *testing.T) {
	l := NewLines()
	loud, quiet := &Event{Workload: "loud"}, &Event{Workload: "quiet"}
	again := &Event{Workload: "loud", More: 7}
	written, suppressed := 0, 0
	now := noon
	for range 60 {
		for range 1000 {
			now = now.Add(time.Millisecond)
			if l.Allow(loud, now) {
				written++
			}
		}
		if l.Allow(again, now) {
			t.Error("a line for what is told again, while there is no room")
		}
		if !l.Allow(quiet, now) {
			t.Fatal("the quiet one has no line")
		}
		for _, s := range l.Due(now, false) {
			if s.Workload != "loud" || s.Within < FoldAfter || s.Within > FoldAfter+time.Second {
				t.Errorf("%+v", s)
			}
			suppressed += s.Count
		}
	}
	for _, s := range l.Due(now, true) {
		suppressed += s.Count
	}
	if want := linesEach + 60*linesEachRate; written < want-5 || written > want+5 {
		t.Errorf("%d lines, want %d", written, want)
	}
	if written+suppressed != 60*1000+60*7 {
		t.Errorf("%d lines and %d without are not all", written, suppressed)
	}
	if l.Due(now.Add(time.Hour), false); len(l.of) != 0 {
		t.Errorf("%d workloads are kept", len(l.of))
	}
}

// TestLinesOfAll: many workloads together are bounded, and each has a line now and
// then all the same.
func TestLinesOfAll(t *testing.T) {
	l := NewLines()
	const workloads, seconds = 400, 60
	written := map[string]int{}
	sum := 0
	for s := range seconds {
		for n := range 20 * workloads {
			e := &Event{Workload: fmt.Sprint(n % workloads)}
			if l.Allow(e, noon.Add(time.Duration(s)*time.Second+time.Duration(n)*time.Microsecond)) {
				written[e.Workload]++
				sum++
			}
		}
	}
	if most := linesAll + seconds*linesAllRate + workloads*seconds/int(FoldAfter/time.Second); sum > most {
		t.Errorf("%d lines, want %d at the most", sum, most)
	}
	late := &Event{Workload: "late"}
	if !l.Allow(late, noon.Add(seconds*time.Second)) {
		t.Error("one that comes later has no line")
	}
	for n := range workloads {
		if got := written[fmt.Sprint(n)]; got < seconds/int(FoldAfter/time.Second) {
			t.Errorf("workload %d has %d lines", n, got)
		}
	}
}
