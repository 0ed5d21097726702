// SPDX-License-Identifier: Apache-2.0

package events

import (
	"bytes"
	"cmp"
	"errors"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/loader/telemetry"
	"github.com/egressd/egressd/policy"
)

// oneName knows one address.
type oneName struct{ addr netip.Addr }

func (n oneName) NamesOf(_ policy.PolicyID, a netip.Addr) []string {
	if a == n.addr {
		return []string{"a.example"}
	}
	return nil
}

func (n oneName) Lately(_ policy.PolicyID, a netip.Addr) (string, time.Time, bool) {
	return "old.example", time.Now(), a != n.addr
}

func (oneName) Noted(_ string, _ netip.Addr, pid int) []string {
	if pid == 7 {
		return []string{"wish.example", "other.example"}
	}
	return nil
}

type noPolicies struct{}

func (noPolicies) Policy(policy.PolicyID) *policy.Policy { return nil }

// TestKernelTells: what the kernel tells is recorded with the names of its address; a
// connection that it cut is ended, but not a flow of an interface, of which there is
// no socket; of the probe nothing is told.
func TestKernelTells(t *testing.T) {
	known, other := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:443")
	src := netip.MustParseAddrPort("192.0.2.9:4000")
	cut := telemetry.KernelEvent{Dst: known, Peer: known, Src: src, Cookie: 5, Reason: policy.ReasonName, Transport: policy.TCP, Workload: 1}
	wire := cut
	wire.Interface = 3
	for _, c := range []struct {
		name   string
		event  telemetry.KernelEvent
		err    error
		ends   bool
		want   *flow.Event // nil: none
		detail string
	}{
		{"allowed", telemetry.KernelEvent{Dst: known, Peer: known, Reason: policy.ReasonAllowed, Verdict: policy.Direct, Workload: 1}, nil, false,
			&flow.Event{Allowed: true, Name: "a.example", Workload: "w1"}, ""},
		{"cut", cut, nil, true, &flow.Event{Name: "a.example", Workload: "w1"}, ""},
		{"cut, and not ended", cut, errors.New("failed"), true, &flow.Event{Name: "a.example", Workload: "w1"}, ""},
		{"of an interface", wire, nil, false, &flow.Event{Name: "a.example", Workload: "w1", Interface: "if3"}, ""},
		{"learned no more", telemetry.KernelEvent{Dst: other, Peer: other, Reason: policy.ReasonNoRule, Workload: 1}, nil, false,
			&flow.Event{Workload: "w1"}, "learned for old.example"},
		{"meant", telemetry.KernelEvent{Dst: other, Peer: other, Reason: policy.ReasonNoRule, Audit: true, PID: 7, Workload: 1}, nil, false,
			&flow.Event{Allowed: true, WouldDeny: true, Name: "wish.example", Names: []string{"wish.example", "other.example"}, Workload: "w1"}, ""},
		{"not known yet", telemetry.KernelEvent{Dst: known, Peer: known, Reason: policy.ReasonNoRule, Policy: policy.UnknownWorkload, Workload: 1}, nil, false,
			&flow.Event{Name: "a.example", Workload: "w1", Reason: policy.ReasonUnknownWorkload}, ""},
		{"the probe's", telemetry.KernelEvent{Dst: known, Peer: known, Reason: policy.ReasonNoRule, Workload: 4}, nil, false, nil, ""},
	} {
		var log bytes.Buffer
		r := NewRecorder(slog.New(slog.DiscardHandler))
		ended := 0
		k := &Kernel{
			Recorder: r, Names: oneName{known.Addr()}, Policies: noPolicies{}, Probe: 4, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Workload:  func(id uint32) string { return map[uint32]string{1: "w1"}[id] },
			Interface: func(i int) string { return map[int]string{3: "if3"}[i] },
			End:       func(telemetry.KernelEvent) error { ended++; return c.err },
		}
		k.Record(c.event)
		var got []flow.Event
		r.each(func(e flow.Event) bool { got = append(got, e); return true })
		if (ended == 1) != c.ends || strings.Contains(log.String(), "failed") != (c.err != nil) {
			t.Errorf("%s: ended %d times: %s", c.name, ended, &log)
		}
		if c.want == nil {
			if len(got) != 0 {
				t.Errorf("%s: %+v", c.name, got)
			}
			continue
		}
		if len(got) != 1 {
			t.Errorf("%s: %d events", c.name, len(got))
			continue
		}
		e := got[0]
		if e.Allowed != c.want.Allowed || e.WouldDeny != c.want.WouldDeny || e.Name != c.want.Name || !slices.Equal(e.Names, c.want.Names) ||
			e.Workload != c.want.Workload || e.Interface != c.want.Interface || e.Reason != cmp.Or(c.want.Reason, c.event.Reason) || !strings.Contains(e.Detail, c.detail) {
			t.Errorf("%s: %+v", c.name, e)
		}
	}
}

// observed is what an observer was told.
type observed []flow.Observation

func (o *observed) Observe(s *flow.Observation) { *o = append(*o, *s) }

// TestKernelIsObserved: an observer is told of denials with the flag of a mesh that lets
// nothing out, of the name in the ClientHello and of no other one as that, and of who
// connected if the kernel says it; what is let pass, in audit mode too, has no flag.
func TestKernelIsObserved(t *testing.T) {
	dst, src := netip.MustParseAddrPort("[2001:db8::1]:443"), netip.MustParseAddrPort("[2001:db8::9]:4000")
	hello := telemetry.KernelEvent{Name: "evil.example", Src: src, Reason: policy.ReasonName, Verdict: policy.Deny}
	audit := hello
	audit.Audit = true
	for _, c := range []struct {
		name, flags, sni string
		event            telemetry.KernelEvent
		src              netip.AddrPort
	}{
		{"a denied name", "UH", "evil.example", hello, src},
		{"one in audit mode", "", "evil.example", audit, src},
		{"a denied address", "UH", "", telemetry.KernelEvent{Reason: policy.ReasonNoRule, Verdict: policy.Deny}, netip.AddrPort{}},
		{"let pass by its name", "", "a.example", telemetry.KernelEvent{Reason: policy.ReasonAllowed, Verdict: policy.Inspect}, netip.AddrPort{}},
		{"let pass", "", "", telemetry.KernelEvent{Reason: policy.ReasonAllowed, Verdict: policy.Direct}, netip.AddrPort{}},
	} {
		var got observed
		k := &Kernel{
			Recorder: NewRecorder(slog.New(slog.DiscardHandler)), Names: oneName{dst.Addr()}, Policies: noPolicies{}, Log: slog.New(slog.DiscardHandler),
			Workload: func(uint32) string { return "w" }, Interface: func(int) string { return "" }, Observer: &got,
			End: func(telemetry.KernelEvent) error { return nil },
		}
		c.event.Dst, c.event.Peer, c.event.Transport, c.event.Workload = dst, dst, policy.TCP, 1
		k.Record(c.event)
		if len(got) != 1 || got[0].ResponseFlags != c.flags || got[0].ServerName() != c.sni || got[0].Src != c.src {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestSpoken: what a connection began with has the name that its ClientHello says if its
// process asked for that; it is no denial, and is kept for who learns.
func TestSpoken(t *testing.T) {
	known, other := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:443")
	for _, c := range []struct {
		name  string
		event telemetry.KernelEvent
		want  flow.Event
	}{
		{"the name that was learned", telemetry.KernelEvent{Dst: known, First: telemetry.SpokenTLS, Name: "a.example"}, flow.Event{Proto: "tls", Name: "a.example"}},
		{"one of two", telemetry.KernelEvent{Dst: other, PID: 7, First: telemetry.SpokenTLS, Name: "other.example"}, flow.Event{Proto: "tls", Name: "other.example"}},
		{"not the whole hello", telemetry.KernelEvent{Dst: other, PID: 7, First: telemetry.SpokenTLS}, flow.Event{Proto: "tls", Name: "wish.example", Names: []string{"wish.example", "other.example"}}},
		{"another name", telemetry.KernelEvent{Dst: known, First: telemetry.SpokenTLS, Name: "front.example"}, flow.Event{Proto: "tcp", Name: "a.example", Detail: "its ClientHello has the name front.example, for which it did not ask"}},
		{"an address", telemetry.KernelEvent{Dst: other, First: telemetry.SpokenTLS, Name: "front.example"}, flow.Event{Proto: "tcp", Detail: "its ClientHello has the name front.example, for which it did not ask"}},
		{"HTTP", telemetry.KernelEvent{Dst: known, First: telemetry.SpokenHTTP}, flow.Event{Proto: "http", Name: "a.example"}},
		{"SSH", telemetry.KernelEvent{Dst: known, First: telemetry.SpokenOther}, flow.Event{Proto: "tcp", Name: "a.example"}},
	} {
		r := NewRecorder(slog.New(slog.DiscardHandler))
		k := &Kernel{
			Recorder: r, Names: oneName{known.Addr()}, Policies: noPolicies{}, Probe: 4, Log: slog.New(slog.DiscardHandler),
			Workload: func(uint32) string { return "w1" },
		}
		c.event.Audit, c.event.Reason, c.event.Transport, c.event.Workload = true, policy.ReasonNoRule, policy.TCP, 1
		k.Record(c.event)
		list, _ := r.Seen()
		if len(list) != 1 || len(r.Denials()) != 0 {
			t.Errorf("%s: %+v", c.name, list)
			continue
		}
		c.want.Kind, c.want.Layer, c.want.Workload, c.want.Transport, c.want.Dst = flow.Spoken, flow.Kernel, "w1", policy.TCP, c.event.Dst
		c.want.Process.PID, c.want.Allowed, c.want.WouldDeny, c.want.Reason = c.event.PID, true, true, policy.ReasonNoRule
		if !reflect.DeepEqual(list[0], c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, list[0], c.want)
		}
	}
}
