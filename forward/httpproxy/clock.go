// SPDX-License-Identifier: Apache-2.0

package httpproxy

import (
	"sync/atomic"
	"time"
)

// clock tells the time by one reading of a clock, where time.Now needs two: of the wall
// and of the monotonic one. The wall's is read anew every second, and as old as that when
// somebody sets it. The zero value is ready to
// use, by several goroutines.
type clock struct{ read atomic.Pointer[time.Time] }

func (c *clock) now() time.Time {
	if t := c.read.Load(); t != nil {
		if age := time.Since(*t); age < time.Second {
			return t.Add(age)
		}
	}
	t := time.Now()
	c.read.Store(&t)
	return t
}
