// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"testing"
	"time"
)

// patience bounds what other goroutines and processes take for what a test waits for. It
// is no measure of anything: a machine may be slow, and who passes waits no longer than
// it takes.
const patience = time.Minute

// Until waits until done says so, for what another goroutine or process does and nobody
// tells of. what is for the failure.
func Until(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
