// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"

	"github.com/egressd/egressd/internal/flow"
	"github.com/egressd/egressd/policy"
	"github.com/egressd/egressd/policy/allowlist"
)

// TestAllowItem: what is denied has what allows it, in the form that --allow takes, and
// nothing where that would be wrong.
func TestAllowItem(t *testing.T) {
	v4, v6 := netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("[2001:db8::1]:5432")
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(v4.Addr(), port) }
	for name, c := range map[string]struct {
		e    flow.Event
		want string
	}{
		"name":            {flow.Event{Name: "a.example", Dst: v4, Proto: "tcp", Transport: policy.TCP, Reason: policy.ReasonPort}, "a.example:443"},
		"address":         {flow.Event{Dst: v4, Proto: "tcp", Transport: policy.TCP, Reason: policy.ReasonNoRule}, "192.0.2.1:443"},
		"address, IPv6":   {flow.Event{Dst: v6, Proto: "tcp", Transport: policy.TCP, Reason: policy.ReasonNoRule}, "[2001:db8::1]:5432"},
		"datagram":        {flow.Event{Dst: v6, Proto: "udp", Transport: policy.UDP, Reason: policy.ReasonNoRule}, "udp://[2001:db8::1]:5432"},
		"TLS":             {flow.Event{Name: "a.example", Dst: at(9001), Proto: "tls", Transport: policy.TCP, Reason: policy.ReasonName}, "tls://a.example:9001"},
		"HTTP":            {flow.Event{Name: "a.example", Dst: at(9000), Proto: "http", Transport: policy.TCP, Reason: policy.ReasonName}, "http://a.example:9000"},
		"HTTP at its own": {flow.Event{Name: "a.example", Dst: at(80), Proto: "http", Transport: policy.TCP, Reason: policy.ReasonName}, "a.example:80"},
		"question":        {flow.Event{Kind: flow.Query, Layer: flow.DNS, Name: "a.example", Dst: at(53), Proto: "dns", Transport: policy.UDP, Reason: policy.ReasonName}, "a.example"},
		"audit":           {flow.Event{Dst: v4, Proto: "tcp", Transport: policy.TCP, Reason: policy.ReasonNoRule, Allowed: true, WouldDeny: true}, "192.0.2.1:443"},

		"allowed":        {flow.Event{Name: "a.example", Dst: v4, Transport: policy.TCP, Allowed: true, Reason: policy.ReasonAllowed}, ""},
		"its end":        {flow.Event{Kind: flow.Close, Dst: v4, Transport: policy.TCP, Reason: policy.ReasonNoRule}, ""},
		"not ours":       {flow.Event{Dst: v4, Transport: policy.TCP, Reason: policy.ReasonUpstream}, ""},
		"raw socket":     {flow.Event{Reason: policy.ReasonNoRule, Proto: "ip"}, ""},
		"which one":      {flow.Event{Name: "a.example", Names: []string{"a.example", "b.example"}, Dst: v4, Transport: policy.TCP, Reason: policy.ReasonNoRule}, ""},
		"reverse lookup": {flow.Event{Kind: flow.Query, Name: "1.2.0.192.in-addr.arpa", Transport: policy.UDP, Reason: policy.ReasonName}, ""},
		"no such name":   {flow.Event{Name: "a_b.example", Dst: v4, Transport: policy.TCP, Reason: policy.ReasonName}, ""},
		"wildcard":       {flow.Event{Kind: flow.Query, Name: "*.example", Transport: policy.UDP, Reason: policy.ReasonName}, ""},
		"visitor":        {flow.Event{Layer: flow.Ingress, Name: "a.example", Dst: at(443), Proto: "tls", Transport: policy.TCP, Reason: policy.ReasonName}, ""},
		"hostile":        {flow.Event{Name: "a.example;reboot", Dst: v4, Transport: policy.TCP, Reason: policy.ReasonName}, ""},
	} {
		got := AllowItem(&c.e)
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if _, err := allowlist.Parse(got); got != "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
