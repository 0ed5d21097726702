// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// TestEndpointMissing: a set that is not there is a denial with its own
// reason; in audit mode it is said, and the connection goes where it dialled.
func TestEndpointMissing(t *testing.T) {
	r := newRig(t)
	id, err := r.cg.ID()
	must(t, err)
	for _, f := range families {
		vip, end := hostport(f.vip, vipPort), hostport(f.end, vipPort)
		if f.mapped == "" {
			r.echo(f.end, vipPort, "")
			r.echo(f.alt, vipPort, "")
		}
		to := endpoints(hostport(f.alt, vipPort))
		r.apply(service(f.vip, policy.Direct, to, ""), service(f.end, policy.Direct, to, ""))
		if got := r.run(true, "tcp"+f.mapped, vip); got.Data != "hello" {
			t.Errorf("%s: while the set is there: %+v", f.name, got)
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, "egd_endpoints"), nil)
		must(t, err)
		var k bpf.EgressdEgdEndpointKey
		for in := tableIn(t, m); in.NextKey(nil, &k) == nil; {
			must(t, in.Delete(&k))
		}
		m.Close()
		before := r.counter("deny/no-endpoint")
		if got := r.run(true, "tcp"+f.mapped, vip); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: TCP: %+v", f.name, got)
		}
		if got := r.run(true, "udp"+f.mapped, vip); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: UDP: %+v", f.name, got)
		}
		if got := r.run(true, "sendto"+f.mapped, vip); got.Errno != "EPERM" {
			t.Errorf("%s: sendto: %+v", f.name, got)
		}
		if n := r.counter("deny/no-endpoint") - before; n != 3 {
			t.Errorf("%s: %d denials are counted, want 3", f.name, n)
		}
		must(t, r.dp.SetWorkload(id, loader.WorkloadState{ID: 1, Policy: testPolicy, Mode: policy.Audit}))
		if got := r.run(true, "tcp"+f.mapped, end); got.Data != "hello" || got.Peer != end {
			t.Errorf("%s: audited: %+v", f.name, got)
		}
		must(t, r.dp.SetWorkload(id, loader.WorkloadState{ID: 1, Policy: testPolicy}))
		if got := r.run(false, "tcp"+f.mapped, end); got.Data != "hello" {
			t.Errorf("%s: uncaptured: %+v", f.name, got)
		}
		r.apply()
		r.waitForSets(0)
	}
}

// TestEndpointRestart: a connection to an endpoint outlives the daemon, the
// new one knows the sets that are there, and never gives their ids away.
func TestEndpointRestart(t *testing.T) {
	for _, f := range families[:2] {
		t.Run(f.name, func(t *testing.T) {
			r := newRig(t)
			vip, end := hostport(f.vip, vipPort), hostport(f.end, endPort)
			r.echo(f.end, endPort, "")
			r.echo(f.alt, endPort, "")
			open := func() []policy.Opening {
				return append(service(f.vip, policy.Direct, endpoints(end), ""),
					service(f.net, policy.Direct, endpoints(end), "")...)
			}
			r.apply(open())
			n := r.setEntries()
			stays, goes := r.hold(vip), r.hold(vip)
			must(t, r.dp.Close())
			if got := r.run(true, "tcp", vip); got.Data != "hello" || got.Peer != vip {
				t.Errorf("%s: with no daemon: %+v", f.name, got)
			}
			r.open()
			if !r.dp.Adopted() {
				t.Error("pinned state was not adopted")
			}
			live, err := r.dp.LiveAddresses(nil)
			must(t, err)
			if !live[netip.MustParseAddr(f.vip)] {
				t.Errorf("%s: the dialled address is not among those in use: %v", f.name, live)
			}
			r.apply(open())
			if got := r.setEntries(); got != n {
				t.Errorf("%s: %d entries of sets after the restart, %d before", f.name, got, n)
			}
			if got := stays.goOn(); got.Data != "echoed" {
				t.Errorf("%s: a connection from before the restart: %+v", f.name, got)
			}
			events := r.serveEvents()
			r.apply(service(f.vip, policy.Direct, endpoints(hostport(f.alt, endPort)), ""))
			if got := goes.goOn(); got.Data != "" {
				t.Errorf("%s: its endpoint was taken out: %+v", f.name, got)
			}
			next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonPolicyChanged })
			r.waitForSets(2)
			live, err = r.dp.LiveAddresses(nil)
			must(t, err)
			if live[netip.MustParseAddr(f.vip)] {
				t.Errorf("%s: the dialled address counts as in use after its connections", f.name)
			}
		})
	}
}

// TestEndpointSets: equal lists share a set, weights are scaled, and a set
// goes when its last address does.
func TestEndpointSets(t *testing.T) {
	r := newRig(t)
	a, b := hostport(endV4, 1), hostport(altV4, 1)
	r.apply(service("240.0.0.1", policy.Direct, endpoints(a, b), ""), service("240.0.0.2", policy.Direct, endpoints(b, a), ""),
		service("240.1.0.0/16", policy.Direct, endpoints(a, b), ""))
	if n := r.setEntries(); n != 4 {
		t.Errorf("%d entries for one list of two, want 4", n)
	}
	must(t, r.dp.SetAddress(testPolicy, netip.MustParseAddr("240.0.0.3"), service("240.0.0.3", policy.Direct, endpoints(a, b), "")))
	r.apply()
	if got := r.run(true, "nonblock", hostport("240.0.0.1", vipPort)); got.Errno != "ECONNREFUSED" {
		t.Errorf("an address that was taken out: %+v", got)
	}
	if n := r.setEntries(); n != 4 {
		t.Errorf("%d entries while a learned address needs the set, want 4", n)
	}
	must(t, r.dp.SetAddress(testPolicy, netip.MustParseAddr("240.0.0.3"), nil))
	r.waitForSets(0)
	heavy := []policy.UpstreamEndpoint{
		{Addr: netip.MustParseAddrPort(a), Weight: 1_000_003}, {Addr: netip.MustParseAddrPort(b), Weight: 1},
	}
	r.apply(service("240.0.0.1", policy.Direct, policy.NewEndpoints(heavy), ""))
	if n := r.setEntries(); n != 130 {
		t.Errorf("%d entries of a list that is scaled, want 128 slots and 2 members", n)
	}
	var many []policy.UpstreamEndpoint
	for i := range 300 {
		addr := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		many = append(many, policy.UpstreamEndpoint{Addr: netip.AddrPortFrom(addr, 1), Weight: uint32(i + 1)})
	}
	r.apply(service("240.0.0.1", policy.Direct, policy.NewEndpoints(many), ""))
	r.waitForSets(600)
	must(t, r.dp.Close())
	r.open()
	r.apply(service("240.0.0.1", policy.Direct, policy.NewEndpoints(many), ""))
	if n := r.setEntries(); n != 600 {
		t.Errorf("%d entries after a restart, want the 600 that were there", n)
	}
	r.apply()
	r.waitForSets(0)
}
