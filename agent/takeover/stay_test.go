// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"testing"

	"github.com/egressd/egressd/agent/state"
)

// TestStay: a daemon that another one has taken over from serves again when that one has
// ended and the kernel part is at work, and not while it runs, nor where all was unloaded.
func TestStay(t *testing.T) {
	dir := t.TempDir()
	lock, err := state.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	again := make(chan bool, 1)
	go func() { again <- Stay(t.Context(), dir, func() bool { return true }) }()
	if len(again) > 0 {
		t.Error("the other one runs")
	}
	lock.Close()
	if !<-again {
		t.Error("nobody serves")
	}

	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan bool, 1)
	go func() {
		again <- Stay(ctx, dir, func() bool { asked <- true; return false })
	}()
	<-asked
	cancel()
	if <-again {
		t.Error("nothing of egressd is in the kernel")
	}

	if err := state.Remove(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if Stay(ctx, dir, func() bool { t.Error("it was asked"); return true }) {
		t.Error("all was unloaded")
	}
}
