// SPDX-License-Identifier: Apache-2.0

package world

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Query is one question that reached the DNS server.
type Query struct {
	Time   time.Time
	Name   string // lower case, without the final dot
	Type   string // "A", "AAAA", "HTTPS"...
	Net    string // "udp" or "tcp"
	Client netip.AddrPort
	Server netip.AddrPort // the address that was asked
}

// DNS is an authoritative server for names that are set at run time. It
// remembers every question, so that a test can tell what was never asked.
type DNS struct {
	mu      sync.Mutex
	records map[string]map[uint16][]dns.RR
	rcodes  map[string]int
	silent  map[string]bool
	dead    bool
	delay   time.Duration
	queries []Query
	servers []*dns.Server
	serving sync.WaitGroup
	stop    chan struct{}
}

func newDNS() *DNS {
	return &DNS{
		records: map[string]map[uint16][]dns.RR{},
		rcodes:  map[string]int{},
		silent:  map[string]bool{},
		stop:    make(chan struct{}),
	}
}

// listen serves one address on UDP and TCP.
func (d *DNS) listen(ns *Netns, addr netip.AddrPort) error {
	pc, err := ns.ListenPacket(addr)
	if err != nil {
		return err
	}
	ln, err := ns.Listen(addr)
	if err != nil {
		_ = pc.Close() // the error of Listen is the one that matters
		return err
	}
	for _, s := range []*dns.Server{{PacketConn: pc}, {Listener: ln}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		network := "udp"
		if s.Listener != nil {
			network = "tcp"
		}
		s.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { d.serve(w, m, network, addr) })
		d.servers = append(d.servers, s)
		d.serving.Go(func() { _ = s.ActivateAndServe() }) // ends with an error at close
		<-started
	}
	return nil
}

// close ends the servers and waits for the questions under way.
func (d *DNS) close() {
	close(d.stop)
	for _, s := range d.servers {
		_ = s.Shutdown() // waits for handlers; says only that it was not running
	}
	d.serving.Wait()
}

func canon(name string) string { return strings.ToLower(dns.Fqdn(name)) }

// set replaces the records of one type.
func (d *DNS) set(name string, typ uint16, rrs []dns.RR) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = canon(name)
	if d.records[name] == nil {
		d.records[name] = map[uint16][]dns.RR{}
	}
	d.records[name][typ] = rrs
}

func header(name string, typ uint16, ttl time.Duration) dns.RR_Header {
	return dns.RR_Header{Name: canon(name), Rrtype: typ, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
}

// SetA replaces the IPv4 addresses of name; none leaves the name with an empty
// answer. ttl is sent in whole seconds.
func (d *DNS) SetA(name string, ttl time.Duration, addrs ...netip.Addr) {
	var rrs []dns.RR
	for _, a := range addrs {
		rrs = append(rrs, &dns.A{Hdr: header(name, dns.TypeA, ttl), A: a.AsSlice()})
	}
	d.set(name, dns.TypeA, rrs)
}

// SetAAAA replaces the IPv6 addresses of name. A v4-mapped address is sent as it is.
func (d *DNS) SetAAAA(name string, ttl time.Duration, addrs ...netip.Addr) {
	var rrs []dns.RR
	for _, a := range addrs {
		b := a.As16()
		rrs = append(rrs, &dns.AAAA{Hdr: header(name, dns.TypeAAAA, ttl), AAAA: b[:]})
	}
	d.set(name, dns.TypeAAAA, rrs)
}

// SetCNAME makes name an alias of target.
func (d *DNS) SetCNAME(name string, ttl time.Duration, target string) {
	d.set(name, dns.TypeCNAME, []dns.RR{&dns.CNAME{Hdr: header(name, dns.TypeCNAME, ttl), Target: canon(target)}})
}

// Set replaces all records of the types that appear in zone lines, such as
// `www.example.com. 60 IN HTTPS 1 . alpn=h2 ech=...`.
func (d *DNS) Set(lines ...string) error {
	type key struct {
		name string
		typ  uint16
	}
	groups := map[key][]dns.RR{}
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			return fmt.Errorf("record %q: %w", line, err)
		}
		k := key{canon(rr.Header().Name), rr.Header().Rrtype}
		groups[k] = append(groups[k], rr)
	}
	for k, rrs := range groups {
		d.set(k.name, k.typ, rrs)
	}
	return nil
}

// Fail answers every question for name with an rcode (RFC 1035, 4.1.1).
func (d *DNS) Fail(name string, rcode int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rcodes[canon(name)] = rcode
}

// Silence gives no answer at all for name.
func (d *DNS) Silence(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.silent[canon(name)] = true
}

// SetSilent gives no answer at all to anything, or answers again.
func (d *DNS) SetSilent(silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = silent
}

// SetDelay holds every answer back for that long.
func (d *DNS) SetDelay(delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = delay
}

// Queries are all the questions so far, oldest first.
func (d *DNS) Queries() []Query {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.queries)
}

// Asked counts the questions for name, of any type, over any transport.
func (d *DNS) Asked(name string) int {
	n := 0
	for _, q := range d.Queries() {
		if canon(q.Name) == canon(name) {
			n++
		}
	}
	return n
}

// serve answers one message.
func (d *DNS) serve(w dns.ResponseWriter, m *dns.Msg, network string, server netip.AddrPort) {
	if len(m.Question) != 1 {
		reply := new(dns.Msg)
		_ = w.WriteMsg(reply.SetRcodeFormatError(m)) // the client may be gone
		return
	}
	q := m.Question[0]
	client, _ := netip.ParseAddrPort(w.RemoteAddr().String())
	d.mu.Lock()
	d.queries = append(d.queries, Query{
		Time: time.Now(), Name: strings.TrimSuffix(canon(q.Name), "."), Type: dns.TypeToString[q.Qtype],
		Net: network, Client: client, Server: server,
	})
	delay, silent := d.delay, d.dead || d.silent[canon(q.Name)]
	reply := d.answer(m, q)
	d.mu.Unlock()
	if silent {
		return
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-d.stop:
			return
		}
	}
	if network == "udp" {
		size := dns.MinMsgSize
		if opt := m.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		reply.Truncate(size)
	}
	_ = w.WriteMsg(reply) // the client may be gone
}

// answer builds the reply; the caller holds the lock.
func (d *DNS) answer(m *dns.Msg, q dns.Question) *dns.Msg {
	reply := new(dns.Msg).SetReply(m)
	reply.RecursionAvailable = true
	if opt := m.IsEdns0(); opt != nil {
		reply.SetEdns0(1232, opt.Do())
	}
	name := canon(q.Name)
	if rcode, ok := d.rcodes[name]; ok {
		reply.Rcode = rcode
		return reply
	}
	known := false
	for range 16 { // a CNAME loop ends here
		types, ok := d.records[name]
		known = known || ok
		if rrs := types[q.Qtype]; len(rrs) > 0 || !ok {
			reply.Answer = append(reply.Answer, rrs...)
			break
		}
		alias := types[dns.TypeCNAME]
		if len(alias) == 0 {
			break
		}
		reply.Answer = append(reply.Answer, alias...)
		name = canon(alias[0].(*dns.CNAME).Target)
	}
	if !known {
		reply.Rcode = dns.RcodeNameError
	}
	if len(reply.Answer) == 0 {
		reply.Ns = append(reply.Ns, &dns.SOA{
			Hdr: header(".", dns.TypeSOA, time.Minute), Ns: "ns.invalid.", Mbox: "root.invalid.",
			Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: 60,
		})
	}
	return reply
}
