// SPDX-License-Identifier: Apache-2.0

package loader_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/egressd/egressd/bpf"
	"github.com/egressd/egressd/internal/world"
	"github.com/egressd/egressd/loader"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// Addresses of services that are nowhere, of both families, and where the
// services are.
const (
	vipV4, vipV6 = "240.0.0.1", "fd00:240::1"
	endV4, endV6 = "203.0.113.101", "2001:db8:bad::101"
	altV4, altV6 = "203.0.113.102", "2001:db8:bad::102"
	vipPort      = 3306
	endPort      = 13306
)

// families pairs them; mapped dials IPv4 from an IPv6 socket.
var families = []struct{ name, mapped, vip, end, alt, net string }{
	{"v4", "", vipV4, endV4, altV4, "240.0.0.0/8"},
	{"v6", "", vipV6, endV6, altV6, "fd00:240::/32"},
	{"v4-mapped", "-mapped", vipV4, endV4, altV4, "240.0.0.0/8"},
}

func endpoints(addrs ...string) policy.Endpoints {
	var list []policy.UpstreamEndpoint
	for _, a := range addrs {
		list = append(list, policy.UpstreamEndpoint{Addr: netip.MustParseAddrPort(a), Weight: 1})
	}
	return policy.NewEndpoints(list)
}

// onPort is the address that was dialled, on another port.
func onPort(port uint16) policy.Endpoints {
	return policy.NewEndpoints([]policy.UpstreamEndpoint{{Addr: netip.AddrPortFrom(netip.Addr{}, port)}})
}

// service is what opens a prefix on vipPort, for TCP and UDP.
func service(prefix string, v policy.Verdict, to policy.Endpoints, name string) []policy.Opening {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		a := netip.MustParseAddr(prefix)
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return []policy.Opening{
		{Prefix: p, Port: vipPort, Transport: policy.TCP, Verdict: v, To: to, Name: name},
		{Prefix: p, Port: vipPort, Transport: policy.UDP, Verdict: policy.Direct, To: to},
	}
}

// only is the change after which the test's policy opens this and no other
// policy anything, whatever there was.
func only(openings ...policy.Opening) policy.Change {
	c := policy.Change{Next: new(policy.Snapshot)}
	c.Add(testPolicy, openings...)
	return c
}

// inForce makes that what is in force.
func inForce(dp *loader.Datapath, openings ...policy.Opening) error {
	c := only(openings...)
	return errors.Join(dp.Tighten(c), dp.Loosen(c), dp.Retire(c))
}

// apply brings the static openings in force, as a policy update does.
func (r *rig) apply(openings ...[]policy.Opening) {
	r.t.Helper()
	must(r.t, inForce(r.dp, slices.Concat(openings...)...))
	must(r.t, r.dp.RaiseEpoch())
}

func (r *rig) echo(addr string, port uint16, greeting string) *world.Server {
	r.t.Helper()
	s, err := r.world.AddTCP(netip.AddrPortFrom(netip.MustParseAddr(addr), port), greeting)
	must(r.t, err)
	return s
}

// entries counts what is in a pinned map.
func (r *rig) entries(name string, key, value any) (n int) {
	r.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.pins, name), nil)
	must(r.t, err)
	defer m.Close()
	it := tableIn(r.t, m).Iterate()
	for it.Next(key, value) {
		n++
	}
	must(r.t, it.Err())
	return n
}

// tableIn is the table that is in m, if m is the array of one that grows.
func tableIn(t *testing.T, m *ebpf.Map) *ebpf.Map {
	t.Helper()
	if m.Type() != ebpf.ArrayOfMaps {
		return m
	}
	var in *ebpf.Map
	must(t, m.Lookup(uint32(0), &in))
	t.Cleanup(func() { in.Close() })
	return in
}

func (r *rig) setEntries() int {
	r.t.Helper()
	return r.entries("egd_endpoints", new(bpf.EgressdEgdEndpointKey), new(bpf.EgressdEgdEndpoint))
}

// waitForSets waits until the sweep has left as many entries of sets.
func (r *rig) waitForSets(want int) {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for r.setEntries() != want || r.dp.Fills()["egd_endpoints"].Entries != want {
		if time.Now().After(deadline) {
			r.t.Fatalf("egd_endpoints keeps %d entries, want %d", r.setEntries(), want)
		}
		_, err := r.dp.SweepOrigins(time.Minute)
		must(r.t, err)
		time.Sleep(20 * time.Millisecond)
	}
}

func (r *rig) counter(name string) uint64 {
	r.t.Helper()
	all, err := r.dp.Counters()
	must(r.t, err)
	return all[name]
}

// TestEndpoint: every way of connecting to a virtual address reaches the
// endpoint, and sees the virtual address.
func TestEndpoint(t *testing.T) {
	r := newRig(t)
	for _, f := range families {
		vip, end := hostport(f.vip, vipPort), hostport(f.end, endPort)
		if f.mapped == "" {
			r.echo(f.end, endPort, "")
			_, err := r.world.AddUDP(netip.MustParseAddrPort(end))
			must(t, err)
		}
		// The twin: uncaptured, the endpoint answers under its own address.
		if got := r.run(false, "udp"+f.mapped, end); got.Data != "hello" || got.Peer != end || got.From != end {
			t.Errorf("%s: uncaptured, to the endpoint: %+v", f.name, got)
		}
		r.apply()
		if got := r.run(true, "tcp"+f.mapped, vip); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: before it is allowed: %+v", f.name, got)
		}
		r.apply(service(f.vip, policy.Direct, endpoints(end), ""))
		for _, op := range []string{"tcp", "udp"} {
			got := r.run(true, op+f.mapped, vip)
			if got.Data != "hello" || got.Peer != vip || (op == "udp") != (got.From == vip) {
				t.Errorf("%s: %s: %+v, want the endpoint's echo and %s as peer", f.name, op, got, vip)
			}
		}
		if got := r.run(true, "sendto"+f.mapped, vip); got.Data != "hello" || got.From != vip {
			t.Errorf("%s: sendto: %+v, want the answer to come from %s", f.name, got, vip)
		}
		if got := r.run(true, "tcp"+f.mapped, end); got.Errno != "ECONNREFUSED" {
			t.Errorf("%s: the endpoint itself, which no rule opens: %+v", f.name, got)
		}
		if f.mapped != "" {
			continue
		}
		for _, op := range []string{"fastopen", "nonblock"} {
			if got := r.run(true, op, vip); got.Data != "hello" || got.Peer != vip {
				t.Errorf("%s: %s: %+v", f.name, op, got)
			}
		}
	}
	for _, f := range families[:2] {
		addr := netip.MustParseAddr(f.vip)
		if n := r.world.Packets(addr); n != 0 {
			t.Errorf("%s: %d packets went to the virtual address itself", f.name, n)
		}
		// The twin: uncaptured, they do.
		if got := r.run(false, "syn", hostport(f.vip, vipPort)); got.Errno != "EINPROGRESS" || r.world.Packets(addr) == 0 {
			t.Errorf("%s: uncaptured: %+v, %d packets", f.name, got, r.world.Packets(addr))
		}
	}
	if n := r.entries("egd_dialled", new(uint64), new(bpf.EgressdEgdDialled)); n != 0 {
		t.Errorf("egd_dialled keeps %d entries of sockets that are closed", n)
	}
}

// TestEndpointForms: a prefix of virtual addresses, a port of the dialled
// address, and a list that has no endpoint of the family.
func TestEndpointForms(t *testing.T) {
	r := newRig(t)
	for _, f := range families[:2] {
		end := hostport(f.end, endPort)
		r.echo(f.end, endPort, "")
		far := netip.MustParsePrefix(f.net).Addr().Next().Next().String()
		if got := r.run(false, "tcp", end); got.Data != "hello" {
			t.Errorf("%s: uncaptured: %+v", f.name, got)
		}
		r.apply(service(f.net, policy.Direct, endpoints(end), ""))
		if got := r.run(true, "tcp", hostport(far, vipPort)); got.Data != "hello" || got.Peer != hostport(far, vipPort) {
			t.Errorf("%s: an address of the prefix: %+v", f.name, got)
		}
		r.apply(service(f.end, policy.Direct, onPort(endPort), ""))
		if got := r.run(true, "tcp", hostport(f.end, vipPort)); got.Data != "hello" || got.Peer != hostport(f.end, vipPort) {
			t.Errorf("%s: another port of the dialled address: %+v", f.name, got)
		}
		before := r.counter("deny/no-endpoint")
		other := families[1].end
		if f.name == "v6" {
			other = families[0].end
		}
		r.apply(service(f.vip, policy.Direct, endpoints(hostport(other, endPort)), ""))
		if got := r.run(true, "tcp", hostport(f.vip, vipPort)); got.Errno != "ECONNREFUSED" || r.counter("deny/no-endpoint") != before+1 {
			t.Errorf("%s: an endpoint of the other family: %+v", f.name, got)
		}
	}
}

// TestEndpointWeights: connections are spread as the weights say. An
// unconnected socket stays with its endpoint.
func TestEndpointWeights(t *testing.T) {
	r := newRig(t)
	for _, f := range families[:2] {
		vip := hostport(f.vip, vipPort)
		list := []policy.UpstreamEndpoint{
			{Addr: netip.MustParseAddrPort(hostport(f.end, endPort)), Weight: 30},
			{Addr: netip.MustParseAddrPort(hostport(f.alt, endPort)), Weight: 10},
		}
		var udp []*world.Server
		for i, e := range list {
			r.echo(e.Addr.Addr().String(), endPort, string(rune('a'+i)))
			s, err := r.world.AddUDP(e.Addr)
			must(t, err)
			udp = append(udp, s)
		}
		r.apply(service(f.vip, policy.Direct, policy.NewEndpoints(list), ""))
		got := r.run(true, "many-connects", vip, "400")
		var said map[string]int
		if got.Errno != "" || json.Unmarshal([]byte(got.Data), &said) != nil {
			t.Fatalf("%s: %+v", f.name, got)
		}
		// 300 and 100 are expected; 60 is seven standard deviations.
		if said["a"]+said["b"] != 400 || said["b"] < 40 || said["b"] > 160 {
			t.Errorf("%s: %v, want three of four at a", f.name, said)
		}
		got = r.run(true, "many-datagrams", vip, "40")
		if want := fmt.Sprintf(`{"%s":40}`, vip); got.Data != want {
			t.Errorf("%s: answers come from %+v, want %s", f.name, got, want)
		}
		if a, b := udp[0].Hits(), udp[1].Hits(); a+b != 40 || a != 0 && b != 0 {
			t.Errorf("%s: one socket's datagrams reached %d and %d times", f.name, a, b)
		}
	}
}

// TestEndpointChanges: a policy change cuts the connections to an endpoint
// that was taken out, and no others.
func TestEndpointChanges(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	for _, f := range families[:2] {
		vip, end, alt := hostport(f.vip, vipPort), hostport(f.end, endPort), hostport(f.alt, endPort)
		r.echo(f.end, endPort, "")
		r.echo(f.alt, endPort, "")
		r.echo(f.end, vipPort, "")
		one := service(f.vip, policy.Direct, endpoints(end), "")
		for _, c := range []struct {
			name  string
			from  []policy.Opening
			dial  string
			to    []policy.Opening
			stays bool
		}{
			{"the same", one, vip, one, true},
			{"one more", one, vip, service(f.vip, policy.Direct, endpoints(end, alt), ""), true},
			{"another", one, vip, service(f.vip, policy.Direct, endpoints(alt), ""), false},
			{"straight", one, vip, service(f.vip, policy.Direct, policy.Endpoints{}, ""), false},
			{"proxied from now on", one, vip, service(f.vip, policy.Proxy, policy.Endpoints{}, ""), false},
			{"gone", one, vip, nil, false},
			{"port the same, as a list", service(f.end, policy.Direct, onPort(endPort), ""), hostport(f.end, vipPort),
				service(f.end, policy.Direct, endpoints(end), ""), true},
			{"another port", service(f.end, policy.Direct, onPort(endPort), ""), hostport(f.end, vipPort),
				service(f.end, policy.Direct, onPort(endPort+1), ""), false},
			{"from straight to itself", service(f.end, policy.Direct, policy.Endpoints{}, ""), hostport(f.end, vipPort),
				service(f.end, policy.Direct, endpoints(hostport(f.end, vipPort), alt), ""), true},
			{"from straight to another", service(f.end, policy.Direct, policy.Endpoints{}, ""), hostport(f.end, vipPort),
				service(f.end, policy.Direct, endpoints(alt), ""), false},
		} {
			r.apply(c.from)
			h := r.hold(c.dial)
			r.apply(c.to)
			got := h.goOn()
			if c.stays {
				if got.Data != "echoed" {
					t.Errorf("%s: %s: %+v, want it to stay", f.name, c.name, got)
				}
				continue
			}
			if got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" && got.Errno != "EPIPE" {
				t.Errorf("%s: %s: %+v, want a reset", f.name, c.name, got)
			}
			e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Reason == policy.ReasonPolicyChanged && !e.Closed })
			if e.Dst.String() != c.dial || e.Verdict != policy.Deny {
				t.Errorf("%s: %s: event %+v", f.name, c.name, e)
			}
		}
	}
}

// TestEndpointUDP: a connected UDP socket goes on as long as its endpoint is in
// the set, and sends nothing when it is not.
func TestEndpointUDP(t *testing.T) {
	r := newRig(t)
	for _, f := range families {
		vip, end, alt := hostport(f.vip, vipPort), hostport(f.end, endPort), hostport(f.alt, endPort)
		var servers []*world.Server
		for _, a := range []string{end, alt} {
			s, err := r.world.AddUDP(netip.MustParseAddrPort(a))
			must(t, err)
			servers = append(servers, s)
		}
		r.apply(service(f.vip, policy.Direct, endpoints(end), ""))
		stays, goes := r.holdAs("hold-udp"+f.mapped, vip), r.holdAs("hold-udp"+f.mapped, vip)
		r.apply(service(f.vip, policy.Direct, endpoints(end, alt), ""))
		r.waitForSets(4)
		if got := stays.goOn(); got.Data != "echoed" {
			t.Errorf("%s: its endpoint is in the new set: %+v", f.name, got)
		}
		r.apply(service(f.vip, policy.Direct, endpoints(alt), ""))
		if got := goes.goOn(); got.Errno != "EPERM" {
			t.Errorf("%s: its endpoint was taken out: %+v, want EPERM", f.name, got)
		}
		if a, b := servers[0].Hits(), servers[1].Hits(); a != 3 || b != 0 {
			t.Errorf("%s: %d and %d datagrams reached the endpoints, want 3 and 0", f.name, a, b)
		}
		for _, s := range servers {
			s.Close()
		}
	}
}

// TestEndpointEvents: events tell what was dialled and where it went.
func TestEndpointEvents(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	for _, f := range families[:2] {
		vip, end := hostport(f.vip, vipPort), hostport(f.end, endPort)
		r.echo(f.end, endPort, "")
		r.apply(service(f.vip, policy.Direct, endpoints(end), ""))
		r.run(true, "tcp", vip)
		for _, closed := range []bool{false, true} {
			e := next(t, events, func(e telemetry.KernelEvent) bool { return e.Closed == closed })
			if e.Dst.String() != vip || e.Peer.String() != end || e.Reason != policy.ReasonAllowed || e.Verdict != policy.Direct {
				t.Errorf("%s: event %+v, want %s and %s", f.name, e, vip, end)
			}
		}
	}
}

// TestEndpointInspect: a ClientHello to a virtual address is judged by the
// names of that address, and what does not fit is reset at the endpoint.
func TestEndpointInspect(t *testing.T) {
	r := newRig(t)
	events := r.serveEvents()
	for _, f := range families[:2] {
		vip, end := hostport(f.vip, vipPort), hostport(f.end, endPort)
		r.echo(f.end, endPort, "")
		if got := r.run(false, "hello", end, "hello", "evil.example", "0", "0"); got.Data != "echoed" {
			t.Errorf("%s: uncaptured: %+v", f.name, got)
		}
		r.apply(service(f.vip, policy.Inspect, endpoints(end), goodName), service(f.vip, policy.Inspect, endpoints(end), "second.example"))
		for _, name := range []string{goodName, "second.example"} {
			if got := r.run(true, "hello", vip, "hello", name, "0", "0"); got.Data != "echoed" {
				t.Errorf("%s: %s: %+v", f.name, name, got)
			}
		}
		got := r.run(true, "hello", vip, "hello", "evil.example", "0", "0")
		if got.Errno != "ECONNABORTED" && got.Errno != "ECONNRESET" && got.Errno != "EPIPE" {
			t.Errorf("%s: another name: %+v, want a reset", f.name, got)
		}
		e := next(t, events, func(e telemetry.KernelEvent) bool {
			return e.Reason == policy.ReasonName && e.Name == "evil.example" && e.Dst.String() == vip
		})
		if e.Peer.String() != end {
			t.Errorf("%s: event %+v", f.name, e)
		}
		r.apply(service(f.vip, policy.Inspect, endpoints(end), goodName))
		if got := r.run(true, "hello", vip, "hello", "second.example", "0", "0"); got.Data != "" {
			t.Errorf("%s: a name that was taken out: %+v", f.name, got)
		}
	}
	r.apply()
	if fills := r.dp.Fills(); fills["egd_names"].Entries != 0 {
		t.Errorf("egd_names keeps %+v", fills["egd_names"])
	}
}
