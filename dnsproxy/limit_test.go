// SPDX-License-Identifier: Apache-2.0

package dnsproxy

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/egressd/egressd/policy"
)

// TestLimiter: neither one workload at its bound nor several take the last
// places from those that have little.
func TestLimiter(t *testing.T) {
	l := newLimiter(1024, 256)
	took := func(key string, tries int) (n int) {
		for range tries {
			if l.acquire(key) {
				n++
			}
		}
		return n
	}
	for i, want := range []int{256, 256, 256, 16, 16} {
		if got := took(fmt.Sprint("greedy", i), 1000); got != want {
			t.Errorf("greedy workload %d has %d, want %d", i, got, want)
		}
	}
	for i := range 14 {
		if got := took(fmt.Sprint("modest", i), 16); got != 16 {
			t.Errorf("modest workload %d has %d of 16", i, got)
		}
	}
	if l.acquire("late") {
		t.Error("more than there is")
	}
	l.release("modest0")
	if !l.acquire("late") || l.acquire("greedy0") {
		t.Error("a place that is free again goes to who has none")
	}
	if small := newLimiter(1, 1); !small.acquire("a") || small.acquire("b") {
		t.Error("a limit of one is one")
	}
}

// TestHogsOfConnections: workloads that hold all the TCP connections they may
// leave some for the others.
func TestHogsOfConnections(t *testing.T) {
	r := newRig(t, Config{MaxConns: 8, MaxConnsPerWorkload: 3}).serve()
	dial := func(workload string) (answered bool) {
		r.setClient(Client{Workload: workload, Policy: policy.DefaultPolicy})
		c, err := dns.Dial("tcp", r.tcp[0].String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if err := c.WriteMsg(question("localhost.", dns.TypeA)); err != nil {
			return false
		}
		_, err = c.ReadMsg()
		return err == nil
	}
	for i, want := range []string{"yes yes yes no", "yes yes yes no", "yes no", "yes"} {
		var got []string
		for range strings.Fields(want) {
			got = append(got, map[bool]string{true: "yes", false: "no"}[dial(fmt.Sprint("w", i))])
		}
		if strings.Join(got, " ") != want {
			t.Errorf("workload %d: %v, want %s", i, got, want)
		}
	}
}

// TestLongQuery: a message that no query is as long as ends the connection.
func TestLongQuery(t *testing.T) {
	r := newRig(t, Config{}).serve()
	padded := func(n int) *dns.Msg {
		m := question("localhost.", dns.TypeA)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_PADDING{Padding: make([]byte, n)}}
		return m
	}
	if m := r.ask("tcp", r.tcp[0], padded(3000)); m.Rcode != dns.RcodeSuccess {
		t.Errorf("3,000 bytes of padding: %v", m)
	}
	c, err := net.Dial("tcp", r.tcp[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	wire, err := padded(5000).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFrame(c, wire); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("an answer to 5,000 bytes: %d, %v", n, err)
	}
	r.expectEvent(policy.ReasonMalformed, false)
	if got := r.Stats()["malformed"]; got != 1 {
		t.Errorf("malformed = %d", got)
	}
}
