// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/hostname"
	"github.com/egressd/egressd/policy"
)

// compiled decides by a policy, as the egress side does.
type compiled struct {
	kind Handling
	mu   sync.Mutex
	p    *policy.Policy
}

func (d *compiled) policy() *policy.Policy {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.p
}

func (d *compiled) become(t *testing.T, c *policy.Config) {
	t.Helper()
	s, err := policy.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	d.p = s.Policy(policy.DefaultPolicy)
	d.mu.Unlock()
}

func flowOf(c *Conn, draw uint64) policy.Flow {
	return policy.Flow{Transport: policy.TCP, Dst: c.Dst, Names: []string{"a.example"}, Draw: draw}
}

func (d *compiled) Open(*Conn) Admission { return Admission{Protocol: d.kind, Decision: allowed} }

func (d *compiled) TLS(c *Conn, sni string) (policy.Decision, *policy.Upstream) {
	return d.policy().DecideTLS(flowOf(c, c.Draw), sni)
}

func (d *compiled) HTTP(c *Conn, r *policy.Request) policy.HTTPDecision {
	return d.policy().DecideHTTP(flowOf(c, r.Draw), r)
}

// halves is a.example, half of which goes to one.example, and half to two.example,
// whose service is left out where it is not declared.
func halves(declared bool) *policy.Config {
	ports := []policy.Port{{Number: 80, Name: "http", Protocol: policy.ProtocolHTTP}, {Number: 443, Name: "tls", Protocol: policy.ProtocolTLS}}
	c := &policy.Config{}
	for _, host := range []string{"a.example", "one.example", "two.example"} {
		if host == "two.example" && !declared {
			continue
		}
		c.Services = append(c.Services, &policy.Service{
			Ref: policy.Ref{Kind: "ServiceEntry", Namespace: "default", Name: host}, External: true,
			Hosts: []hostname.Pattern{hostname.Pattern(host)}, Ports: ports, Resolution: policy.ResolutionDNS,
		})
	}
	to := []*policy.WeightedDestination{
		{Destination: policy.Destination{Host: "one.example"}, Weight: 50}, {Destination: policy.Destination{Host: "two.example"}, Weight: 50},
	}
	c.VirtualServices = []*policy.VirtualService{{
		Ref: policy.Ref{Kind: "VirtualService", Namespace: "default", Name: "a"}, Hosts: []hostname.Pattern{"a.example"}, Gateways: []string{"mesh"},
		HTTP: []*policy.HTTPRule{{Route: to}},
		TLS:  []*policy.TLSRule{{Matches: []*policy.L4Match{{SNIHosts: []hostname.Pattern{"a.example"}}}, Route: to}},
	}}
	return c
}

// newWeighted is a rig with the policy of halves. Of what it draws two go to
// one.example, and the next two to two.example: those of a connection and its request.
func newWeighted(t *testing.T, kind Handling, dst string) (*rig, *compiled) {
	d, draws := &compiled{kind: kind}, atomic.Uint64{}
	d.become(t, halves(true))
	r := newRig(t, kind, func(o *Options) {
		o.Decider, o.Rand = d, func() uint64 { return (draws.Add(1) - 1) / 2 % 2 * 50 }
	})
	r.dst = netip.MustParseAddrPort(dst)
	return r, d
}

// TestWeightsAreDrawnOnce: a connection is asked about again as the one that goes where
// it goes, whatever the weights would have another one do.
func TestWeightsAreDrawnOnce(t *testing.T) {
	for _, dst := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		r, d := newWeighted(t, TLS, dst)
		one, two := r.accepts("one.example"), r.accepts("two.example")
		stays, ends := r.dial(), []*net.TCPConn(nil)
		write(t, stays, string(hello(t, "a.example")))
		stayed := receive(t, one)
		for range 3 {
			nc := r.dial()
			write(t, nc, string(hello(t, "a.example")))
			select {
			case <-one:
			case <-two:
				ends = append(ends, nc)
			}
		}
		if len(ends) == 0 {
			t.Fatal("no connection went to two.example")
		}
		for range 5 { // nothing has changed
			r.core.Recheck()
		}
		d.become(t, halves(false))
		for range 5 {
			r.core.Recheck()
		}
		for _, nc := range ends {
			expectReset(t, nc)
		}
		readN(t, stayed, len(hello(t, "a.example")))
		write(t, stayed, "still")
		if got := readN(t, stays, 5); got != "still" {
			t.Errorf("%s: read %q", dst, got)
		}
	}
}

// TestWeightsOfRequestsAreDrawnOnce is the same for requests under way.
func TestWeightsOfRequestsAreDrawnOnce(t *testing.T) {
	for _, dst := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		r, d := newWeighted(t, HTTP, dst)
		release := make(chan bool)
		for _, host := range []string{"one.example", "two.example"} {
			r.httpOrigin(host, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("X-At", host)
				w.(http.Flusher).Flush()
				<-release
				_, _ = io.WriteString(w, "all")
			})
		}
		c := r.client(false)
		answers := map[string][]*http.Response{}
		for range 4 {
			resp, err := c.Get("http://a.example/")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			at := resp.Header.Get("X-At")
			answers[at] = append(answers[at], resp)
		}
		d.become(t, halves(false))
		for range 5 {
			r.core.Recheck()
		}
		// What ends has ended before the origins go on.
		for i := range answers["two.example"] {
			if e := r.sink.wait(t, flow.Request, i+1); e.Reason != policy.ReasonPolicyChanged {
				t.Errorf("%s: a request ended by %s", dst, e.Reason)
			}
		}
		close(release)
		for _, resp := range answers["one.example"] {
			if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "all" {
				t.Errorf("%s: a request to where the rule still leads ended: %q, %v", dst, body, err)
			}
		}
		for _, resp := range answers["two.example"] {
			if _, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("%s: a request to where the rule leads no more went on", dst)
			}
		}
		if len(answers["one.example"]) == 0 || len(answers["two.example"]) == 0 {
			t.Errorf("answers %v", answers)
		}
		for i := range answers["one.example"] {
			if e := r.sink.wait(t, flow.Request, len(answers["two.example"])+i+1); e.Reason == policy.ReasonPolicyChanged {
				t.Errorf("%s: a request to where the rule still leads ended with the policy", dst)
			}
		}
	}
}
