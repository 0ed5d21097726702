// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"maps"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

type answered struct{ n *atomic.Int32 }

func (a answered) Answered() { a.n.Add(1) }

// TestProbe: egressd's own question is answered, whatever it is, by either
// transport, and neither counted nor told of. The same question of somebody
// else is a denial.
func TestProbe(t *testing.T) {
	r := newRig(t, Config{}).serve()
	var n atomic.Int32
	ask := func(network string) int {
		t.Helper()
		c := dns.Client{Net: network}
		at := r.udp[0]
		if network == "tcp" {
			at = r.tcp[0]
		}
		rep, _, err := c.Exchange(new(dns.Msg).SetQuestion("probe.egressd.invalid.", dns.TypeA), at.String())
		if err != nil {
			t.Fatal(err)
		}
		return rep.Rcode
	}
	was := r.Stats()
	r.setClient(Client{Probe: answered{&n}})
	for i, network := range []string{"udp", "tcp"} {
		if code := ask(network); code != dns.RcodeSuccess || n.Load() != int32(i+1) {
			t.Errorf("%s: rcode %d, %d answered", network, code, n.Load())
		}
	}
	if now := r.Stats(); !maps.Equal(was, now) {
		t.Errorf("counted: %v, was %v", now, was)
	}
	if e := r.events.take(); len(e) != 0 {
		t.Errorf("events: %v", e)
	}
	r.setClient(Client{Policy: 1, Workload: "somebody"})
	if code := ask("udp"); code != dns.RcodeNameError || n.Load() != 2 || len(r.events.take()) != 1 {
		t.Errorf("somebody else: rcode %d, %d answered", code, n.Load())
	}
}
