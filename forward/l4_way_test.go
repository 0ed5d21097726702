// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

// TestWayIsRecorded: the beginning and the end of a connection whose bytes are not read
// say which rule sent it where, through which gateway and with which timeouts, and under
// which name it was asked for; without a rule there is none.
func TestWayIsRecorded(t *testing.T) {
	entry := &policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: "asked"}
	rule := &policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "elsewhere"}
	own := &policy.HostPort{Number: 5432, Rule: entry, Upstream: &policy.Upstream{Host: "asked.example", Match: &policy.Host{Pattern: "asked.example", Rule: entry}}}
	routed := policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed, Rule: rule, Port: own, Through: &policy.GatewayListener{Name: "default/way-out"}}
	plain := policy.Decision{Verdict: policy.Proxy, Reason: policy.ReasonAllowed, Rule: entry, Port: own}
	for _, protocol := range []Handling{Opaque, TLS} {
		for _, d := range []policy.Decision{routed, plain} {
			r := newRig(t, protocol)
			u := upstreamOf("up.example")
			u.Subset = "v1"
			u.Traffic = &policy.TrafficPolicy{Pool: &policy.ConnectionPool{TCPIdleTimeout: time.Minute, MaxConnectionDuration: time.Hour}}
			r.open = func(*Conn) Admission { return Admission{Protocol: protocol, Decision: d, Upstream: u} }
			r.tls = func(string) (policy.Decision, *policy.Upstream) { return d, u }
			conns := r.accepts("up.example")
			nc := r.dial()
			write(t, nc, string(hello(t, "asked.example")))
			up := receive(t, conns)
			nc.Close()
			up.Close()
			for _, kind := range []flow.Moment{flow.Decision, flow.Close} {
				e := r.sink.wait(t, kind, 1)
				if e.Destination != "up.example" || e.Subset != "v1" || e.IdleTimeout != time.Minute || e.MaxDuration != time.Hour {
					t.Errorf("%v, %s: %+v", protocol, kind, e)
				}
				if d.Through != nil && (e.Route != rule || e.Gateway != "default/way-out" || e.Name != "asked.example") || d.Through == nil && (e.Route != nil || e.Gateway != "") {
					t.Errorf("%v, %s: route %v, gateway %q, name %q", protocol, kind, e.Route, e.Gateway, e.Name)
				}
			}
		}
	}
}
