// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// zone is a DNS server on loopback, UDP and TCP on one port.
type zone struct {
	addr netip.AddrPort

	mu    sync.Mutex
	asked []string // "NAME TYPE transport"
	last  *dns.Msg
	// handle answers; nil answers from records.
	handle  func(w dns.ResponseWriter, r *dns.Msg)
	records []string
}

func newZone(t testing.TB, records ...string) *zone {
	t.Helper()
	z := &zone{records: records}
	pc, ln := listenBoth(t, "127.0.0.1:0")
	z.addr = pc.LocalAddr().(*net.UDPAddr).AddrPort()
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: z}, {Listener: ln, Handler: z}} {
		up := make(chan struct{})
		done := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() { defer close(done); _ = s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
	return z
}

// listenBoth binds UDP and TCP to one free port.
func listenBoth(t testing.TB, addr string) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, ln
		}
		_ = pc.Close()
	}
	t.Fatal("no port is free for both UDP and TCP")
	return nil, nil
}

func (z *zone) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	z.mu.Lock()
	q := r.Question[0]
	z.asked = append(z.asked, fmt.Sprintf("%s %s %s", q.Name, dns.Type(q.Qtype), w.RemoteAddr().Network()))
	z.last = r.Copy()
	handle := z.handle
	records := z.records
	z.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	_ = w.WriteMsg(zoneReply(r, records))
}

// zoneReply answers r with all records whose owner is on its alias chain.
func zoneReply(r *dns.Msg, records []string) *dns.Msg {
	m := new(dns.Msg).SetReply(r)
	name, known := r.Question[0].Name, false
	for range 8 {
		next := ""
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			if canonical(rr.Header().Name) != canonical(name) {
				continue
			}
			known = true
			if cname, ok := rr.(*dns.CNAME); ok {
				next = cname.Target
				m.Answer = append(m.Answer, rr)
			} else if rr.Header().Rrtype == r.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if !known {
		m.Rcode = dns.RcodeNameError
	}
	return m
}

// set replaces the records.
func (z *zone) set(records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records = records
}

func (z *zone) setHandle(h func(w dns.ResponseWriter, r *dns.Msg)) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.handle = h
}

func (z *zone) takeAsked() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	out := z.asked
	z.asked = nil
	return out
}

func (z *zone) lastQuery() *dns.Msg {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.last
}
