// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"fmt"
	"maps"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
)

// counterNames maps enum egd_reason and enum egd_counter to the names that
// metrics and status use: a denial is counted under its reason.
var counterNames = nameCounters()

func nameCounters() map[uint32]string {
	names := map[uint32]string{
		uint32(bpf.EgressdEgdCounterEGD_C_BY_SOCKET):     "pass/by-socket",
		uint32(bpf.EgressdEgdCounterEGD_C_INBOUND):       "pass/inbound",
		uint32(bpf.EgressdEgdCounterEGD_C_CONTROL):       "pass/link-control",
		uint32(bpf.EgressdEgdCounterEGD_C_INSPECT):       "pass/inspect",
		uint32(bpf.EgressdEgdCounterEGD_C_REPLY):         "pass/reply",
		uint32(bpf.EgressdEgdCounterEGD_C_PASS_LOOPBACK): "pass/loopback",
		uint32(bpf.EgressdEgdCounterEGD_C_PASS_OWN):      "pass/exempt",
		uint32(bpf.EgressdEgdCounterEGD_C_PASS_OUTSIDE):  "pass/outside",
		uint32(bpf.EgressdEgdCounterEGD_C_DIRECT):        "pass/direct",
		uint32(bpf.EgressdEgdCounterEGD_C_PROXY):         "redirect/proxy",
		uint32(bpf.EgressdEgdCounterEGD_C_DNS):           "redirect/dns",
		uint32(bpf.EgressdEgdCounterEGD_C_EVENT_LOST):    CounterLost,
		uint32(bpf.EgressdEgdCounterEGD_C_AUDIT):         "audit/would-deny",
	}
	for r, reason := range reasons {
		names[uint32(r)] = "deny/" + string(reason)
	}
	return names
}

// CounterLost is the name of the counter of events that there was no room for
// in the ring.
const CounterLost = "lost/event"

// CounterNames are the names of the counters, by their numbers.
func CounterNames() map[uint32]string { return maps.Clone(counterNames) }

// Counters reads egd_counters, by names, summed over the CPUs.
func Counters(m *ebpf.Map) (map[string]uint64, error) {
	out := make(map[string]uint64, len(counterNames))
	for id, name := range counterNames {
		var perCPU []uint64
		if err := m.Lookup(id, &perCPU); err != nil {
			return nil, fmt.Errorf("read egd_counters: %w", err)
		}
		for _, n := range perCPU {
			out[name] += n
		}
	}
	return out, nil
}
