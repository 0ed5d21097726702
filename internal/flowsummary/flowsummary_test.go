// SPDX-License-Identifier: Apache-2.0

package flowsummary

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
)

func at(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }

// TestSummary: what is counted as one, and what not at all; most denied first.
func TestSummary(t *testing.T) {
	dst := netip.MustParseAddrPort("[2001:db8::1]:443")
	web := netip.MustParseAddrPort("192.0.2.1:80")
	curl := flow.Process{PID: 1, Command: "curl"}
	var s Summary
	for _, e := range []flow.Event{
		// A connection, which has ended.
		{Time: at(20), Kind: flow.Decision, Workload: "w", Name: "a.example", Dst: dst, Proto: "tls", Allowed: true, Process: curl},
		{Time: at(25), Kind: flow.Close, Workload: "w", Name: "a.example", Dst: dst, Proto: "tls", Allowed: true, BytesSent: 3, BytesReceived: 4, Duration: 5 * time.Second},
		// One that carries two requests, of which one is copied.
		{Time: at(30), Kind: flow.Decision, Workload: "w", Dst: web, Proto: "http", Allowed: true},
		{Time: at(31), Kind: flow.Request, Workload: "w", Name: "b.example", Dst: web, Proto: "http", Allowed: true, BytesSent: 10, BytesReceived: 20},
		{Time: at(32), Kind: flow.Request, Workload: "w", Name: "b.example", Dst: web, Proto: "http", Reason: policy.ReasonAuthorization},
		{Time: at(32), Kind: flow.Mirror, Workload: "w", Name: "b.example", Dst: web, Proto: "http", Allowed: true, BytesSent: 10},
		{Time: at(33), Kind: flow.Close, Workload: "w", Dst: web, Proto: "http", Allowed: true, BytesSent: 10, BytesReceived: 20},
		// Denials: one, nine more, and a question.
		{Time: at(1), Kind: flow.Decision, Workload: "v", Dst: dst, Proto: "tcp", Reason: policy.ReasonNoRule},
		{Time: at(11), Kind: flow.Decision, Workload: "v", Dst: dst, Proto: "tcp", Reason: policy.ReasonNoRule, More: 9, Duration: 10 * time.Second},
		{Time: at(5), Kind: flow.Query, Workload: "v", Name: "c.example", Dst: netip.MustParseAddrPort("9.9.9.9:53"), Proto: "dns", Reason: policy.ReasonName, Allowed: true, WouldDeny: true},
		{Time: at(6), Kind: flow.Decision, Workload: "v", Proto: "ip", Reason: policy.ReasonSocketType},
		{Time: at(7), Kind: flow.Lost, More: 5},
	} {
		s.Add(&e)
	}
	want := []Tally{
		{Workload: "v", Host: "2001:db8::1", Denied: 10, First: at(1), Last: at(11), Ports: []int{443}, Reasons: []string{"no-rule"}},
		{Workload: "w", Host: "b.example", Denied: 1, Allowed: 1, BytesSent: 10, BytesReceived: 20, First: at(31), Last: at(32), Ports: []int{80}, Reasons: []string{"authorization-denied"}},
		{Workload: "v", Host: "c.example", Denied: 1, First: at(5), Last: at(5), Reasons: []string{"name-not-allowed"}},
		{Workload: "v", Host: "ip", Denied: 1, First: at(6), Last: at(6), Reasons: []string{"socket-type"}},
		{Workload: "w", Host: "a.example", Allowed: 1, BytesSent: 3, BytesReceived: 4, First: at(20), Last: at(25), Ports: []int{443}, Commands: []string{"curl"}},
	}
	got := s.Tallies(0)
	if !reflect.DeepEqual(got, want) || s.Lost != 5 {
		t.Errorf("%d lost\ngot  %+v\nwant %+v", s.Lost, got, want)
	}
	if top := s.Tallies(2); !reflect.DeepEqual(top, want[:2]) {
		t.Errorf("%+v", top)
	}
}

// TestBounds: many hosts, ports and commands are counted together.
func TestBounds(t *testing.T) {
	var s Summary
	for i := range MaxPairs + 10 {
		s.Add(&flow.Event{Time: at(0), Kind: flow.Decision, Workload: "w", Name: fmt.Sprint(i), Allowed: true})
	}
	for i := range 100 {
		s.Add(&flow.Event{Time: at(0), Kind: flow.Decision, Workload: "w", Name: "0", Dst: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(i+1)), Process: flow.Process{Command: fmt.Sprint(i)}})
	}
	list := s.Tallies(0)
	if len(list) != MaxPairs+1 || list[0].Host != "0" || list[0].Denied != 100 || len(list[0].Ports) != maxSeen || len(list[0].Commands) != maxSeen || list[1].Host != Rest || list[1].Allowed != 10 {
		t.Errorf("%d, %+v", len(list), list[:2])
	}
}
