// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/policy"
)

func TestNoOriginGetsNoReply(t *testing.T) {
	z := newZone(t, internet...)
	r := newRig(t, Config{}, z.addr).serve()
	client := r.origins.client.Swap(nil)
	c, err := dns.Dial("udp", r.udp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	first := question("www.example.com.", dns.TypeA)
	if err := c.WriteMsg(first); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); r.Stats()["no_origin"] == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the query was not counted")
		}
		runtime.Gosched()
	}
	r.origins.client.Store(client)
	second := question("www.example.com.", dns.TypeA)
	second.Id = first.Id + 1
	if err := c.WriteMsg(second); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if m, err := c.ReadMsg(); err != nil || m.Id != second.Id {
		t.Errorf("first reply: %v, %v", m, err)
	}
	r.origins.client.Store(nil)
	tc, err := net.Dial("tcp", r.tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	_ = tc.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := tc.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a TCP connection without an origin: %d, %v", n, err)
	}
}

func TestOverloadIsPerWorkload(t *testing.T) {
	z := newZone(t)
	arrived, release := make(chan struct{}, 8), make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		arrived <- struct{}{}
		<-release
		_ = w.WriteMsg(zoneReply(q, internet))
	})
	r := newRig(t, Config{MaxPerWorkload: 1}, z.addr).serve()
	done := make(chan *dns.Msg, 1)
	go func() { done <- r.ask("udp", r.udp[0], question("www.example.com.", dns.TypeA)) }()
	<-arrived
	for network, to := range map[string]netip.AddrPort{"udp": r.udp[0], "tcp": r.tcp[0]} {
		if m := r.ask(network, to, question("www.example.com.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %v", network, m)
		}
		r.expectEvent(policy.ReasonOverload, false)
	}
	r.setClient(Client{Workload: "another", Policy: policy.DefaultPolicy, Server: z.addr})
	if m := r.ask("udp", r.udp[0], question("localhost.", dns.TypeA)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("another workload: %v", m)
	}
	close(release)
	if m := <-done; len(m.Answer) != 1 {
		t.Errorf("the first query: %v", m)
	}
	if got := r.Stats()["overload"]; got != 2 {
		t.Errorf("overload = %d", got)
	}
}

func TestBadVersionAndMalformed(t *testing.T) {
	r := newRig(t, Config{}).serve()
	m := question("www.example.com.", dns.TypeA)
	m.IsEdns0().SetVersion(1)
	if got := r.ask("udp", r.udp[0], m); got.Rcode != dns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", got)
	}
	raw := []byte{7, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0}
	out := r.reply(context.Background(), *r.origins.client.Load(), policy.UDP, raw)
	reply := new(dns.Msg)
	if err := reply.Unpack(out); err != nil || reply.Rcode != dns.RcodeFormatError || reply.Id != 0x0707 {
		t.Errorf("two questions: %v %v", reply, err)
	}
	r.expectEvent(policy.ReasonMalformed, false)
	if out := r.reply(context.Background(), *r.origins.client.Load(), policy.UDP, []byte{7, 7, 0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0}); out != nil {
		t.Errorf("a response was answered: %x", out)
	}
}

func TestTCPPipelining(t *testing.T) {
	z := newZone(t)
	release := make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Name == "slow.wild.test." {
			<-release
		}
		_ = w.WriteMsg(zoneReply(q, internet))
	})
	r := newRig(t, Config{}, z.addr).serve()
	c, err := dns.Dial("tcp", r.tcp[1].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var ids []uint16
	for _, name := range []string{"slow.wild.test.", "www.example.com.", "evil.test."} {
		m := question(name, dns.TypeA)
		ids = append(ids, m.Id)
		if err := c.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint16
	for i := range 3 {
		m, err := c.ReadMsg()
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, m.Id); i == 1 {
			close(release) // the slow one holds nobody up
		}
	}
	if got[2] != ids[0] {
		t.Errorf("replies came as %v of %v", got, ids)
	}
}

func TestTCPIdleAndBounds(t *testing.T) {
	r := newRig(t, Config{Idle: 50 * time.Millisecond, MaxConnsPerWorkload: 1}).serve()
	c, err := net.Dial("tcp", r.tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("an idle connection: %d, %v", n, err)
	}

	busy := newRig(t, Config{MaxConnsPerWorkload: 1}).serve()
	held, err := dns.Dial("tcp", busy.tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := held.WriteMsg(question("localhost.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, err := held.ReadMsg(); err != nil {
		t.Fatal(err)
	}
	second, err := net.Dial("tcp", busy.tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	_ = second.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := second.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("one connection too many: %d, %v", n, err)
	}
	if got := busy.Stats()["connection_overload"]; got != 1 {
		t.Errorf("connection_overload = %d", got)
	}
}

func TestServeDrains(t *testing.T) {
	z := newZone(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	z.setHandle(func(w dns.ResponseWriter, q *dns.Msg) {
		close(arrived)
		<-release
		_ = w.WriteMsg(zoneReply(q, internet))
	})
	r := newRig(t, Config{Drain: 10 * time.Second}, z.addr)
	pc, ln := listenBoth(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, []net.PacketConn{pc}, []net.Listener{ln}) }()
	idle, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answered := make(chan *dns.Msg, 1)
	go func() {
		answered <- r.ask("udp", pc.LocalAddr().(*net.UDPAddr).AddrPort(), question("www.example.com.", dns.TypeA))
	}()
	<-arrived
	cancel()
	select {
	case err := <-served:
		t.Fatalf("Serve returned with a query in flight: %v", err)
	default:
	}
	close(release)
	if m := <-answered; len(m.Answer) != 1 {
		t.Errorf("the query in flight: %v", m)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestServeEndsWhenAListenerDies(t *testing.T) {
	r := newRig(t, Config{})
	pc, ln := listenBoth(t, "127.0.0.1:0")
	_ = ln.Close()
	if err := r.Serve(context.Background(), []net.PacketConn{pc}, []net.Listener{ln}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

// TestFirstQuestionAfterTheEnd: who was accepted just before the end and has
// not asked yet is answered; who has asked before sees the end at once.
func TestFirstQuestionAfterTheEnd(t *testing.T) {
	r := newRig(t, Config{})
	pc, ln := listenBoth(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served := make(chan error, 1)
	go func() { served <- r.Serve(ctx, []net.PacketConn{pc}, []net.Listener{ln}) }()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	ask := func(c net.Conn) error {
		conn := &dns.Conn{Conn: c}
		if err := conn.WriteMsg(new(dns.Msg).SetQuestion("localhost.", dns.TypeA)); err != nil {
			return err
		}
		_, err := conn.ReadMsg()
		return err
	}
	fresh, used := dial(), dial()
	if err := ask(used); err != nil { // and the one before it has been accepted
		t.Fatal(err)
	}
	cancel()
	r.WaitQuiet()
	if err := ask(fresh); err != nil {
		t.Errorf("a connection that was accepted and had not asked: %v", err)
	}
	if err := ask(used); err == nil {
		t.Error("a connection that had its answer is served on")
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}
