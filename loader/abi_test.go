// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"testing"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// TestEnums: the numbers that both evaluators use are the same ones.
func TestEnums(t *testing.T) {
	for c, g := range map[bpf.EgressdEgdVerdict]policy.Verdict{
		bpf.EgressdEgdVerdictEGD_DENY:    policy.Deny,
		bpf.EgressdEgdVerdictEGD_DIRECT:  policy.Direct,
		bpf.EgressdEgdVerdictEGD_INSPECT: policy.Inspect,
		bpf.EgressdEgdVerdictEGD_PROXY:   policy.Proxy,
	} {
		if uint32(c) != uint32(g) {
			t.Errorf("verdict %s is %d in C and %d in Go", g, c, g)
		}
	}
	for c, g := range map[bpf.EgressdEgdMode]policy.Mode{
		bpf.EgressdEgdModeEGD_ENFORCE: policy.Enforce,
		bpf.EgressdEgdModeEGD_AUDIT:   policy.Audit,
		bpf.EgressdEgdModeEGD_OFF:     policy.Off,
	} {
		if uint32(c) != uint32(g) {
			t.Errorf("mode %s is %d in C and %d in Go", g, c, g)
		}
	}
}

// TestEveryNumberHasAName: what the programs deny for and count is in events, status
// and metrics.
func TestEveryNumberHasAName(t *testing.T) {
	spec, err := bpf.LoadEgressd()
	if err != nil {
		t.Fatal(err)
	}
	names, counters := map[string]bool{}, telemetry.CounterNames()
	for _, of := range []string{"egd_reason", "egd_counter"} {
		var enum *btf.Enum
		if err := spec.Types.TypeByName(of, &enum); err != nil {
			t.Fatal(err)
		}
		for _, v := range enum.Values {
			if v.Name == "EGD_R_NONE" || v.Name == "EGD_R_MAX" || v.Name == "EGD_C_MAX" {
				continue
			}
			name := counters[uint32(v.Value)]
			if name == "" || names[name] {
				t.Errorf("%s has no name of its own: %q", v.Name, name)
			}
			names[name] = true
		}
	}
	if len(names) != len(counters) {
		t.Errorf("the kernel has %d numbers, user space %d names", len(names), len(counters))
	}
}

// TestSizes pins the sizes of what user space and the programs share. A change
// makes the tables anew at the next start; TestKept has what must not change.
func TestSizes(t *testing.T) {
	for name, c := range map[string]struct{ got, want uintptr }{
		"egd_config":       {unsafe.Sizeof(bpf.EgressdEgdConfig{}), 96},
		"egd_workload":     {unsafe.Sizeof(bpf.EgressdEgdWorkload{}), 24},
		"egd_step_key":     {unsafe.Sizeof(bpf.EgressdEgdStepKey{}), 16},
		"egd_step":         {unsafe.Sizeof(bpf.EgressdEgdStep{}), 16},
		"egd_addr_key":     {unsafe.Sizeof(bpf.EgressdEgdAddrKey{}), 24},
		"egd_addr_val":     {unsafe.Sizeof(bpf.EgressdEgdAddrVal{}), 8},
		"egd_cidr_key":     {unsafe.Sizeof(bpf.EgressdEgdCidrKey{}), 28},
		"egd_known_key":    {unsafe.Sizeof(bpf.EgressdEgdKnownKey{}), 20},
		"egd_origin_key":   {unsafe.Sizeof(bpf.EgressdEgdOriginKey{}), 28},
		"egd_origin":       {unsafe.Sizeof(bpf.EgressdEgdOrigin{}), 96},
		"egd_socket":       {unsafe.Sizeof(bpf.EgressdEgdSocket{}), 360},
		"egd_hello":        {unsafe.Sizeof(bpf.EgressdEgdHello{}), 336},
		"egd_endpoint_key": {unsafe.Sizeof(bpf.EgressdEgdEndpointKey{}), 24},
		"egd_dialled":      {unsafe.Sizeof(bpf.EgressdEgdDialled{}), 32},
		"egd_endpoint":     {unsafe.Sizeof(bpf.EgressdEgdEndpoint{}), 20},
		"egd_recent":       {unsafe.Sizeof(bpf.EgressdEgdRecent{}), 544},
		"egd_own_key":      {unsafe.Sizeof(bpf.EgressdEgdOwnKey{}), 20},
		"egd_device":       {unsafe.Sizeof(bpf.EgressdEgdDevice{}), 32},
		"egd_usage":        {unsafe.Sizeof(bpf.EgressdEgdUsage{}), 24},
		"egd_rewrites":     {unsafe.Sizeof(bpf.EgressdEgdRewrites{}), 188},
		"egd_name_key":     {unsafe.Sizeof(bpf.EgressdEgdNameKey{}), 280},
		"egd_peer_key":     {unsafe.Sizeof(bpf.EgressdEgdPeerKey{}), 32},
		"egd_iface":        {unsafe.Sizeof(bpf.EgressdEgdIface{}), 16},
		"egd_flow_key":     {unsafe.Sizeof(bpf.EgressdEgdFlowKey{}), 44},
		"egd_share":        {unsafe.Sizeof(bpf.EgressdEgdShare{}), 16},
		"egd_flow":         {unsafe.Sizeof(bpf.EgressdEgdFlow{}), 64},
		"egd_flow_bytes":   {unsafe.Sizeof(bpf.EgressdEgdFlowBytes{}), 4168},
		"egd_event":        {unsafe.Sizeof(bpf.EgressdEgdEvent{}), 416},
	} {
		if c.got != c.want {
			t.Errorf("%s has %d bytes, want %d", name, c.got, c.want)
		}
	}
}
