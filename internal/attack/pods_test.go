// SPDX-License-Identifier: Apache-2.0

package attack

import "net/netip"

// The first candidates of package gate.
const (
	gateV4 = "169.254.255.151"
	gateV6 = "fd65:6772:6573:73::151"
)

// pods are attacks from, and on, other network namespaces: pods on one bridge,
// and a namespace with a wire of its own where somebody else has the gate's
// address.
var pods = []row{
	{attack: "the gate", how: "connect() to its port 15001, from the node", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("connect", gateV4, "15001"), seen: accepted},
	{attack: "the gate", how: "the same, IPv6", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("connect", gateV6, "15001"), seen: accepted},
	{attack: "the gate", how: "connect() to its port 15001, from a pod", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("other_netns", "{pod1}", gateV4, "15001"), seen: accepted},
	{attack: "the gate", how: "the same from a pod, IPv6", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("other_netns", "{pod1}", gateV6, "15001"), seen: accepted},
	{attack: "the gate", how: "UDP to its port 15053, from a pod", want: "EPERM", by: "sendmsg hook: own port", do: ways("udp_from", "{pod1}", gateV4, "15053"), seen: is("sent")},
	{attack: "the gate", how: "another port of the node by it, from a pod", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("other_netns", "{pod1}", gateV4, "15021"), seen: is("connected")},
	{attack: "the gate's address", how: "somebody else has it in a namespace with a wire of its own", want: "connected", open: true, by: "who may set up a namespace's network (CAP_SYS_ADMIN, CAP_NET_ADMIN) says who the gate is there", do: ways("other_netns", "{net}", "{G4}", "80"), proof: func(a *arena) int { return a.impostor.Hits() }, noTwin: "who is not captured is not redirected"},
	{attack: "pod", how: "the stranger, from a pod", want: "ECONNREFUSED", by: byConnect, do: ways("other_netns", "{pod1}", "{A4}", "80")},
	{attack: "pod", how: "the same, IPv6", want: "ECONNREFUSED", by: byConnect, do: ways("other_netns", "{pod1}", "{A6}", "80")},
	{attack: "pod", how: "SNI of the other site at an allowed site's address", want: cutResult, by: byHello, do: ways("tls_from", "{pod1}", "{S4}", "443", "b.cdn.example"), proof: sharedHits},
	{attack: "another pod's address", how: "DNS from its address and port, IP_TRANSPARENT", want: "kept", by: "the listeners: who asks is known by its question's id as well", do: ways("steal", "{pod1}", "{pod2}", "{R4}", "53", "{google}"), seen: is("taken"), noTwin: "without egressd there is no place to take"},
	{attack: "another pod's address", how: "the same, IPv6 and IPV6_FREEBIND: no privilege", want: "kept", by: "the listeners: who asks is known by its question's id as well", do: ways("steal", "{pod1}", "{pod2}", "{R6}", "53", "{google}"), seen: is("taken"), noTwin: "without egressd there is no place to take"},
	{attack: "exhaustion", how: "9,000 DNS sockets, then what is proxied", want: "ECONNREFUSED", by: "connect hook: a workload's share (quota); other workloads have their own", do: ways("hoard", "{R4}", "53", "9000", "{G4}", "80"), seen: is("connected")},
}

// addPods gives the arena what these rows need.
func (a *arena) addPods() {
	all, err := a.AddPods(2, true)
	a.must(err)
	copy(a.pods[:], all)
	a.impostor, err = a.AddTCP(netip.MustParseAddrPort(gateV4+":15001"), "")
	a.must(err)
}
