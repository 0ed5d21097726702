// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"testing"
	"time"
)

// TestClock: it is between two readings of the real one, also when the last reading is
// older than it may be.
func TestClock(t *testing.T) {
	var c clock
	for range 3 {
		before := time.Now()
		at := c.now()
		if after := time.Now(); at.Before(before) || at.After(after) {
			t.Errorf("%v is not between %v and %v", at, before, after)
		}
		old := c.read.Load().Add(-700 * time.Millisecond) // as if it had been read then
		c.read.Store(&old)
	}
	wall := time.Now().Round(0)
	if off := c.now().Round(0).Sub(wall); off < -time.Second || off > time.Second {
		t.Errorf("the wall's clock is off by %v", off)
	}
}
