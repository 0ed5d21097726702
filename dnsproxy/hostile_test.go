// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/hostile"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// TestHostileSpellings: where wildcards allow them all, each is refused or read,
// and asked for upstream, as the name that it stands for.
func TestHostileSpellings(t *testing.T) {
	z := newZone(t)
	// REFUSED tells a denial from the server's NXDOMAIN.
	r := newRig(t, Config{Denied: DenyRefused}, z.addr)
	r.pol.Store(learnedtest.Compile(t, learnedtest.Service("*.com", "*.example", "*.test", "*.1", "*.01", "*."+strings.Repeat("b", 61))))
	c := Client{Workload: "w", Policy: policy.DefaultPolicy, Server: z.addr}
	for _, s := range append(hostile.Spellings(), hostile.Forward()) {
		if s.Wire == nil {
			continue
		}
		out := r.reply(context.Background(), c, policy.UDP, s.Query(dns.TypeA))
		asked := z.takeAsked()
		var want []string
		if s.Name != "" {
			want = []string{s.Name + ". A udp"}
		}
		refused := len(asked) == 0
		if refused && s.What == hostile.Forward().What {
			continue // it may be refused
		}
		if !slices.Equal(asked, want) {
			t.Errorf("%s: asked upstream %q, want %q", s.What, asked, want)
		}
		m := new(dns.Msg)
		if err := m.Unpack(out); err != nil {
			t.Errorf("%s: the reply: %v", s.What, err)
			continue
		}
		if answered := m.Rcode == dns.RcodeNameError; answered == refused {
			t.Errorf("%s: %s", s.What, dns.RcodeToString[m.Rcode])
		}
	}
}

// TestHostileTargets: a name in an answer whose label has a dot in it is not
// taken for a name below an allowed one.
func TestHostileTargets(t *testing.T) {
	q := dns.Question{Name: "q.test.", Qtype: dns.TypeHTTPS, Qclass: dns.ClassINET}
	p := learnedtest.Compile(t, learnedtest.Service("*.wild.test")).Policy(policy.DefaultPolicy)
	for target, stays := range map[string]bool{"x.wild.test.": true, "X.Wild.TEST.": true, `x\.wild.test.`: false, `x\046wild.test.`: false} {
		rep := &dns.Msg{Answer: records(t, "q.test. 60 HTTPS 1 "+target)}
		f := filter(rep, q, rules{maxTTL: 60, target: func(n string) bool { return allows(p, n) }})
		if (len(f.answer) == 1) != stays {
			t.Errorf("HTTPS record with target %s: %v, want %v", target, len(f.answer) == 1, stays)
		}
	}
	// A DNAME moves what is below its owner, by labels.
	q.Qtype = dns.TypeA
	rep := &dns.Msg{Answer: records(t, `q.test. 60 CNAME x\.wild.test.`, "wild.test. 60 DNAME other.test.", `x\.other.test. 60 A 203.0.113.1`)}
	if f := filter(rep, q, rules{maxTTL: 60}); len(f.addrs) != 0 {
		t.Errorf("a DNAME that is not the name's was followed: %v", f.addrs)
	}
}
