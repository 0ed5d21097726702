// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"net/netip"

	"github.com/egressd/egressd/internal/testenv"
	"github.com/egressd/egressd/internal/world"
)

const byPeer = "packets of the socket (cgroup_skb): the peer is not the one that was decided about"

// foreignRows have a program of somebody else behind egressd's hooks, which writes
// the stranger's address in the place of every other.
var foreignRows = []row{
	{attack: "another program behind egressd's", how: "connect() to an allowed server is led elsewhere, IPv4", want: "silence", by: byPeer, do: led("connect", "{API4}", "7")},
	{attack: "another program behind egressd's", how: "connect() to an allowed server is led elsewhere, IPv6", want: "silence", by: byPeer, do: led("connect", "{API6}", "7")},
	{attack: "another program behind egressd's", how: "connect() that is inspected is led elsewhere", want: "silence", by: byPeer, do: led("connect", "{G4}", "443")},
	{attack: "another program behind egressd's", how: "connect() that is proxied is led elsewhere", want: "ECONNABORTED", by: byPeer, do: led("connect", "{G4}", "80")},
	{attack: "another program behind egressd's", how: "sendto() an allowed server is led elsewhere, IPv4", want: "EPERM", by: byPackets, do: led("udp", "{API4}", "7")},
	{attack: "another program behind egressd's", how: "sendto() an allowed server is led elsewhere, IPv6", want: "EPERM", by: byPackets, do: led("udp", "{API6}", "7")},
	{attack: "another program behind egressd's", how: "a connected UDP socket is led elsewhere, IPv4", want: "EPERM", by: byPackets, do: led("udp_connected", "{API4}", "7")},
	{attack: "another program behind egressd's", how: "a connected UDP socket is led elsewhere, IPv6", want: "EPERM", by: byPackets, do: led("udp_connected", "{API6}", "7")},
	{attack: "another program behind egressd's", how: "a question to a DNS server is led elsewhere", want: "EPERM", by: byPackets, do: led("udp", "{R4}", "53")},
}

// led is an attempt while such a program is attached.
func led(function string, args ...string) func(*arena, *world.Cgroup) string {
	return func(a *arena, cg *world.Cgroup) string {
		over, v4, v6 := a.d.Root, netip.MustParseAddr(world.StrangerV4), netip.MustParseAddr(world.StrangerV6)
		twin := cg == nil
		if twin {
			over, cg, v4, v6 = a.outside, a.outside, a.free.V4, a.free.V6
		}
		defer testenv.Rewrite(a.t, over.Path(), v4, v6)()
		return a.pythonIn(a.Node, cg, twin, append([]string{"ways", function}, args...)...)
	}
}
