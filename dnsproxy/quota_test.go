// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/policy"
)

// TestQuotaIsSaid: an answer for which there is no room is withheld, and says
// why to the client and in an event.
func TestQuotaIsSaid(t *testing.T) {
	z := newZone(t, "www.example.com. 60 A 203.0.113.1", "www.example.com. 60 A 203.0.113.2")
	r := newLearningRig(t, Config{}, learned.Options{MaxAddrsPerName: 1}, z.addr).serve()
	m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
	if m.Rcode != dns.RcodeServerFailure || edeOf(m) != int(dns.ExtendedErrorCodeOther) || len(m.Answer) != 0 {
		t.Errorf("reply: %v", m)
	}
	r.expectEvent(policy.ReasonQuota, false)
	if got := r.Stats()["learn_full"]; got != 1 {
		t.Errorf("learn_full = %d", got)
	}
}
