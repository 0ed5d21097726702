// SPDX-License-Identifier: Apache-2.0

package resources

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPercentOf(t *testing.T) {
	const mb = 1 << 20
	for _, c := range []struct {
		lives       uint64
		usual, want int
	}{{8 * mb, 100, 400}, {32 * mb, 100, 100}, {200 * mb, 100, 100}, {0, 100, 3200}, {200 * mb, 30, 30}, {64 * mb, 30, 50}} {
		if got := percentOf(c.lives, c.usual); got != c.want {
			t.Errorf("of %d MiB, usually %d: %d, want %d", c.lives/mb, c.usual, got, c.want)
		}
	}
}

// TestLeaveGarbage: while little lives there may be more garbage than usual, and no more
// when much does, or it has ended.
func TestLeaveGarbage(t *testing.T) {
	now := func() int { // and leaves it so
		p := debug.SetGCPercent(100)
		debug.SetGCPercent(p)
		return p
	}
	usual := now()
	t.Setenv("GOGC", "")
	end := LeaveGarbage(usual)
	defer end()
	until := func(what string, is func(percent int) bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !is(now()); {
			if time.Now().After(deadline) {
				t.Fatalf("%s: GOGC is %d, usually %d", what, now(), usual)
			}
			runtime.GC()
		}
	}
	until("little lives", func(p int) bool { return p > usual })
	much := make([]byte, 256<<20)
	until("much lives", func(p int) bool { return p == usual })
	runtime.KeepAlive(much)
	until("little lives again", func(p int) bool { return p > usual })
	end()
	until("it has ended", func(p int) bool { return p == usual })
}

// TestLeaveGarbageToGOGC: who sets GOGC has it.
func TestLeaveGarbageToGOGC(t *testing.T) {
	t.Setenv("GOGC", "77")
	before := debug.SetGCPercent(77)
	defer debug.SetGCPercent(before)
	LeaveGarbage(100)()
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("GOGC is %d", got)
	}
}
