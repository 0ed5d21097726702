// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/internal/learned"
	"github.com/egressd/egressd/internal/learned/learnedtest"
	"github.com/egressd/egressd/policy"
)

// internet are the records of the tests' upstream.
var internet = []string{
	"www.example.com. 60 A 203.0.113.1", "www.example.com. 60 AAAA 2001:4860::1", "www.example.com. 60 TXT hello",
	"www.example.com. 60 HTTPS 1 . alpn=h2 ech=aGk= ipv4hint=203.0.113.1",
	"other.example.com. 60 CNAME cdn.evil.test.", "cdn.evil.test. 30 A 203.0.113.2",
	"mixed.wild.test. 60 A 203.0.113.3", "mixed.wild.test. 60 A 10.0.0.1",
	"bad.wild.test. 60 A 127.0.0.1", "bad.wild.test. 60 A 192.168.0.1", "bad.wild.test. 60 AAAA ::1",
	"evil.test. 60 A 203.0.113.66",
}

func TestServe(t *testing.T) {
	tests := []struct {
		name   string
		q      string
		qtype  uint16
		rcode  int
		ede    int
		answer []string
		asked  bool
		opened []string
		reason policy.Reason // of the event, "" for none
	}{
		{"allowed", "www.example.com.", dns.TypeA, 0, -1, []string{"www.example.com. 60 IN A 203.0.113.1"}, true, []string{"203.0.113.1"}, ""},
		{"allowed AAAA", "www.example.com.", dns.TypeAAAA, 0, -1, []string{"www.example.com. 60 IN AAAA 2001:4860::1"}, true, []string{"2001:4860::1"}, ""},
		{"case is kept", "wWw.eXample.coM.", dns.TypeTXT, 0, -1, []string{`wWw.eXample.coM. 60 IN TXT "hello"`}, true, nil, ""},
		{"HTTPS", "www.example.com.", dns.TypeHTTPS, 0, -1, []string{`www.example.com. 60 IN HTTPS 1 . alpn="h2"`}, true, nil, ""},
		{"CNAME counts for the queried name", "other.example.com.", dns.TypeA, 0, -1, []string{"other.example.com. 60 IN CNAME cdn.evil.test.", "cdn.evil.test. 30 IN A 203.0.113.2"}, true, []string{"203.0.113.2"}, ""},
		{"no such name", "none.wild.test.", dns.TypeA, dns.RcodeNameError, -1, nil, true, nil, ""},
		{"not allowed", "evil.test.", dns.TypeA, dns.RcodeNameError, int(dns.ExtendedErrorCodeBlocked), nil, false, nil, policy.ReasonName},
		{"alias target is not allowed", "cdn.evil.test.", dns.TypeA, dns.RcodeNameError, int(dns.ExtendedErrorCodeBlocked), nil, false, nil, policy.ReasonName},
		{"reverse name", "1.113.0.203.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, int(dns.ExtendedErrorCodeBlocked), nil, false, nil, policy.ReasonName},
		{"TXT under a wildcard", "x.wild.test.", dns.TypeTXT, 0, int(dns.ExtendedErrorCodeBlocked), nil, false, nil, policy.ReasonQueryType},
		{"zone transfer", "www.example.com.", dns.TypeAXFR, dns.RcodeNotImplemented, -1, nil, false, nil, policy.ReasonMalformed},
		{"ANY", "www.example.com.", dns.TypeANY, 0, -1, []string{`www.example.com. 30 IN HINFO "RFC8482" ""`}, false, nil, ""},
		{"search suffix", "www.example.com.corp.test.", dns.TypeA, dns.RcodeNameError, -1, nil, false, nil, ""},
		{"canary", "use-application-dns.net.", dns.TypeA, dns.RcodeNameError, -1, nil, false, nil, ""},
		{"localhost", "localhost.", dns.TypeA, 0, -1, []string{"localhost. 30 IN A 127.0.0.1"}, false, nil, ""},
		{"localhost AAAA", "a.localhost.", dns.TypeAAAA, 0, -1, []string{"a.localhost. 30 IN AAAA ::1"}, false, nil, ""},
		{"own AAAA", "db.internal.", dns.TypeAAAA, 0, -1, []string{"db.internal. 30 IN AAAA 2001:db8::1"}, false, nil, ""},
		{"own, other type", "db.internal.", dns.TypeMX, 0, -1, nil, false, nil, ""},
		{"one address refused", "mixed.wild.test.", dns.TypeA, 0, -1, []string{"mixed.wild.test. 60 IN A 203.0.113.3"}, true, []string{"203.0.113.3"}, policy.ReasonAddress},
		{"all addresses refused", "bad.wild.test.", dns.TypeA, 0, int(dns.ExtendedErrorCodeFiltered), nil, true, nil, policy.ReasonAddress},
		{"all addresses refused AAAA", "bad.wild.test.", dns.TypeAAAA, 0, int(dns.ExtendedErrorCodeFiltered), nil, true, nil, policy.ReasonAddress},
	}
	for _, family := range []int{0, 1} {
		for _, network := range []string{"udp", "tcp"} {
			for _, tt := range tests {
				t.Run(fmt.Sprintf("%s/%s%d", tt.name, network, 4+2*family), func(t *testing.T) {
					z := newZone(t, internet...)
					r := newRig(t, Config{Upstreams: Upstreams{Search: []string{"corp.test"}}}, z.addr).serve()
					to := map[string][]netip.AddrPort{"udp": r.udp, "tcp": r.tcp}[network][family]
					m := r.ask(network, to, question(tt.q, tt.qtype))
					if m.Rcode != tt.rcode || edeOf(m) != tt.ede {
						t.Errorf("rcode %s, ede %d; want %s, %d", dns.RcodeToString[m.Rcode], edeOf(m), dns.RcodeToString[tt.rcode], tt.ede)
					}
					if got := texts(m.Answer); !slices.Equal(got, tt.answer) {
						t.Errorf("answer %q, want %q", got, tt.answer)
					}
					if m.Question[0].Name != tt.q {
						t.Errorf("question came back as %s", m.Question[0].Name)
					}
					if asked := z.takeAsked(); (len(asked) > 0) != tt.asked {
						t.Errorf("upstream was asked %v", asked)
					}
					if got := r.kernel.Addresses(); !slices.Equal(got, tt.opened) {
						t.Errorf("opened %v, want %v", got, tt.opened)
					}
					r.expectEvent(tt.reason, false)
				})
			}
		}
	}
}

// expectEvent checks that exactly one event came, with the reason; "" none.
func (r *rig) expectEvent(reason policy.Reason, wouldDeny bool) (e flow.Event) {
	r.t.Helper()
	got := r.events.take()
	if reason == "" {
		if len(got) != 0 {
			r.t.Errorf("events: %+v", got)
		}
		return e
	}
	if len(got) != 1 {
		r.t.Fatalf("%d events, want one %s: %+v", len(got), reason, got)
	}
	e = got[0]
	if e.Reason != reason || e.WouldDeny != wouldDeny || e.Allowed != wouldDeny || e.Workload != "w" || e.Layer != "dns" || e.Kind != "query" || !e.Dst.IsValid() {
		r.t.Errorf("event %+v, want %s", e, reason)
	}
	return e
}

func TestAnswerIsLearnedBeforeItIsSent(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	c, err := net.Dial("udp", r.udp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 1500)
	written := make(chan struct{})
	r.kernel.SetHook(func() {
		defer close(written)
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if n, err := c.Read(buf); err == nil {
			t.Errorf("a reply of %d bytes came before the kernel was written", n)
		}
	})
	wire, err := question("www.example.com.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(wire); err != nil {
		t.Fatal(err)
	}
	<-written
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(buf); err != nil {
		t.Fatal(err)
	}
	if len(r.kernel.Opens("203.0.113.1")) != 1 {
		t.Error("the reply is here and the address is not open")
	}
}

func TestKernelErrorWithholdsTheAnswer(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	r.kernel.SetFail(errors.New("no space left"))
	m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA))
	if m.Rcode != dns.RcodeServerFailure || len(m.Answer) != 0 {
		t.Errorf("reply: %v", m)
	}
	if n := r.Stats()["learn_kernel_error"]; n != 1 {
		t.Errorf("learn_kernel_error = %d", n)
	}
}

func TestFullTableWithholdsTheAnswer(t *testing.T) {
	z := newZone(t, internet...)
	r := newLearningRig(t, Config{}, learned.Options{MaxAddrs: 1}, z.addr)
	r.serve()
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Fatal(m)
	}
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeAAAA)); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("reply: %v", m)
	}
	r.expectEvent(policy.ReasonQuota, false)
	if got := r.kernel.Addresses(); !slices.Equal(got, []string{"203.0.113.1"}) {
		t.Errorf("open: %v", got)
	}
}

func TestAuditForwardsAndTells(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Mode: policy.Audit, Server: z.addr})
	tests := []struct {
		name   string
		qtype  uint16
		want   []string
		opened []string
		reason policy.Reason
	}{
		{"evil.test.", dns.TypeA, []string{"evil.test. 60 IN A 203.0.113.66"}, []string{}, policy.ReasonName},
		{"mixed.wild.test.", dns.TypeA, []string{"mixed.wild.test. 60 IN A 203.0.113.3", "mixed.wild.test. 60 IN A 10.0.0.1"}, []string{"203.0.113.3"}, policy.ReasonAddress},
		{"mixed.wild.test.", dns.TypeTXT, []string{}, []string{"203.0.113.3"}, policy.ReasonQueryType},
	}
	for _, tt := range tests {
		m := r.ask("udp", r.udp[0], question(tt.name, tt.qtype))
		if got := texts(m.Answer); !slices.Equal(got, tt.want) || m.Rcode != 0 {
			t.Errorf("%s: %v %v", tt.name, dns.RcodeToString[m.Rcode], got)
		}
		if got := r.kernel.Addresses(); !slices.Equal(got, tt.opened) {
			t.Errorf("%s: opened %v", tt.name, got)
		}
		r.expectEvent(tt.reason, true)
	}
	r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Mode: policy.Off, Server: z.addr})
	if m := r.ask("udp", r.udp[0], question("evil.test.", dns.TypeA)); len(m.Answer) != 1 {
		t.Errorf("mode off: %v", m)
	}
	r.expectEvent("", false)
}

func TestNoPolicyRefuses(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	r.setClient(Client{Workload: "w", Policy: 42, Server: z.addr})
	if m := r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Errorf("reply: %v", m)
	}
	r.expectEvent(policy.ReasonName, false)
	if asked := z.takeAsked(); len(asked) != 0 {
		t.Errorf("upstream was asked %v", asked)
	}
}

// TestEachDenialIsReported: with who asked; the sink makes few of many.
func TestEachDenialIsReported(t *testing.T) {
	r := newRig(t, Config{}).serve()
	for _, command := range []string{"curl", "wget", "curl"} {
		r.setClient(Client{Workload: "w", Policy: policy.DefaultPolicy, Server: r.udp[0], Process: flow.Process{PID: 7, Command: command}})
		r.ask("udp", r.udp[0], question("evil.test.", dns.TypeA))
		if e := r.expectEvent(policy.ReasonName, false); e.Process.Command != command || e.Process.PID != 7 || e.Name != "evil.test" {
			t.Errorf("%+v", e)
		}
	}
}

func TestOwnAnswersRotate(t *testing.T) {
	r := newRig(t, Config{}).serve()
	first := map[string]int{}
	for range 4 {
		m := r.ask("udp", r.udp[0], question("db.internal.", dns.TypeA))
		if len(m.Answer) != 2 || !m.Authoritative {
			t.Fatal(m)
		}
		first[m.Answer[0].(*dns.A).A.String()]++
	}
	if first["192.0.2.1"] != 2 || first["192.0.2.2"] != 2 {
		t.Errorf("first answers: %v", first)
	}
}

func TestServeWhileThePolicyChanges(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	wide, narrow := learnedtest.Compile(t, learnedtest.Services()...), learnedtest.Compile(t, learnedtest.Service("www.example.com"))
	names := []string{"www.example.com.", "other.example.com.", "mixed.wild.test.", "evil.test."}
	var clients sync.WaitGroup
	for g := range 4 {
		clients.Go(func() {
			for i := range 40 {
				name := names[(g+i)%len(names)]
				m := r.ask("udp", r.udp[i%2], question(name, dns.TypeA))
				if m.Rcode == dns.RcodeSuccess && name == "evil.test." || m.Rcode != dns.RcodeSuccess && name == "www.example.com." {
					t.Errorf("%s: %s", name, dns.RcodeToString[m.Rcode])
				}
			}
		})
	}
	for i := range 50 {
		next := []*policy.Snapshot{wide, narrow}[i%2]
		if err := errors.Join(r.names.Tighten(policy.Diff(nil, next)), r.names.Expire()); err != nil {
			t.Error(err)
		}
		r.pol.Store(next)
		if err := r.names.Loosen(policy.Diff(nil, next)); err != nil {
			t.Error(err)
		}
	}
	clients.Wait() // the narrow policy came last
	if got := r.kernel.Addresses(); len(got) > 1 || len(got) == 1 && got[0] != "203.0.113.1" {
		t.Errorf("open under the last policy: %v", got)
	}
}
