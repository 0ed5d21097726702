// SPDX-License-Identifier: Apache-2.0

package events

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/flowrecord"
	"github.com/egressd/egressd/policy"
)

// counting counts what the lines of a flow log stand for, by workload.
type counting struct {
	mu     sync.Mutex
	lines  int
	stands map[string]int
}

func (c *counting) Record(e *flow.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines++
	c.stands[e.Workload] += flowrecord.Times(e)
}

// TestFloodIsCounted: whatever workloads do at one time to be folded, the lines that are
// told stand for each denial, and they are few.
func TestFloodIsCounted(t *testing.T) {
	const workloads, each, kinds = 4, 5000, 3000
	r := NewRecorder(slog.New(slog.DiscardHandler))
	told := &counting{stands: map[string]int{}}
	r.TellAll(told)
	var all sync.WaitGroup
	for w := range workloads {
		all.Go(func() {
			for i := range each {
				r.Record(&flow.Event{
					Time: time.Now(), Kind: flow.Decision, Layer: flow.Kernel, Workload: fmt.Sprint("w", w), Process: flow.Process{PID: i + 1, Command: fmt.Sprint("c", i%7)},
					Transport: policy.TCP, Proto: "tcp", Reason: policy.ReasonNoRule,
					Dst: netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i % kinds >> 8), 15: byte(i % kinds)}), uint16(i%2+1)),
				})
				if i%500 == 0 {
					r.Flush(i%1000 == 0)
				}
			}
		})
	}
	all.Wait()
	r.Flush(true)
	for w := range workloads {
		if n := told.stands[fmt.Sprint("w", w)]; n != each {
			t.Errorf("the lines of workload %d stand for %d denials of %d", w, n, each)
		}
	}
	if len(told.stands) != workloads || told.lines >= workloads*each/2 {
		t.Errorf("%d lines for %d denials of %d workloads", told.lines, workloads*each, len(told.stands))
	}
}
