// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"strconv"
	"strings"
	"testing"
)

// TestAfter: who asks again has each event once, is told of those that are gone, and gets
// nothing where there is nothing new.
func TestAfter(t *testing.T) {
	l := NewLog(4 * batch)
	record := func(from, to int) {
		for i := from; i < to; i++ {
			l.Record(&Event{Name: strconv.Itoa(i), Allowed: true})
		}
	}
	names := func(events []Event) string {
		var out []string
		for _, e := range events {
			out = append(out, e.Name)
		}
		return strings.Join(out, " ")
	}
	if events, next, gone := l.After(0, 10); len(events) != 0 || next != 0 || gone != 0 {
		t.Errorf("of an empty log: %d events, %d, %d", len(events), next, gone)
	}
	record(0, 3)
	events, next, gone := l.After(0, 10)
	if names(events) != "0 1 2" || next != 3 || gone != 0 {
		t.Errorf("the first three: %q, %d, %d", names(events), next, gone)
	}
	if events, again, _ := l.After(next, 10); len(events) != 0 || again != next {
		t.Errorf("nothing new: %q, %d", names(events), again)
	}
	record(3, 3+8*batch)
	events, to, gone := l.After(next, 1)
	if len(events) != batch || gone != 4*batch || events[0].Name != strconv.Itoa(3+4*batch) {
		t.Errorf("half of it was pushed out: %d events from %q, %d gone", len(events), events[0].Name, gone)
	}
	rest, end, gone := l.After(to, 100*batch)
	if len(rest) != 3*batch || gone != 0 || end != l.End() {
		t.Errorf("the rest: %d events, %d gone, up to %d of %d", len(rest), gone, end, l.End())
	}
}
