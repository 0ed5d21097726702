// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/egressd/egressd/internal/world"
)

// What stops attacks, by layer.
const (
	byConnect    = "connect hook"
	byDevice     = "connect and sendmsg hooks: it goes to the DNS proxy, which stands at an address of the device"
	bySendmsg    = "sendmsg hook"
	bySocket     = "sock_create hook"
	byPackets    = "packets of the socket (cgroup_skb)"
	bySetsockopt = "setsockopt hook: groups that no rule names"
	byUplink     = "TC program on the uplink"
	byVeth       = "TC program on the host's side"
	byTCP        = "connect hook, by the caller's cgroup"
)

func n(v int) string { return strconv.Itoa(v) }

// accepted: egressd accepts whom it then resets.
func accepted(result string) bool { return result == "connected" || result == "ECONNRESET" }

// sockets are ways to open a flow to the stranger.
var sockets = []row{
	{attack: "address literal", how: "connect(), IPv4", want: "ECONNREFUSED", by: byConnect, do: ways("connect", "{A4}", "443")},
	{attack: "another workload's learned address", how: "connect(), after the other resolved the name", want: "ECONNREFUSED", by: byConnect, do: theirs("connect", "{A4}", "443")},
	{attack: "another workload's learned address", how: "UDP sendto()", want: "EPERM", by: bySendmsg, do: theirs("udp", "{A4}", "443")},
	{attack: "address literal", how: "connect(), IPv6", want: "ECONNREFUSED", by: byConnect, do: ways("connect", "{A6}", "443")},
	{attack: "address literal", how: "connect(), not blocking", want: "ECONNREFUSED", by: byConnect, do: ways("nonblocking", "{A4}", "443")},
	{attack: "IPv4-mapped IPv6", how: "connect() to ::ffff:a.b.c.d", want: "ECONNREFUSED", by: byConnect, do: ways("connect", "::ffff:{A4}", "443")},
	{attack: "IPv4-mapped IPv6", how: "UDP sendto() to ::ffff:a.b.c.d", want: "EPERM", by: bySendmsg, do: ways("udp", "::ffff:{A4}", "443")},
	{attack: "TCP Fast Open", how: "sendto(MSG_FASTOPEN), IPv4", want: "ECONNREFUSED", by: byConnect, do: ways("fastopen", "{A4}", "443")},
	{attack: "TCP Fast Open", how: "sendto(MSG_FASTOPEN), IPv6", want: "ECONNREFUSED", by: byConnect, do: ways("fastopen", "{A6}", "443")},
	{attack: "TCP Fast Open", how: "TCP_FASTOPEN_CONNECT", want: "ECONNREFUSED", by: byConnect, do: ways("fastopen_connect", "{A4}", "443")},
	{attack: "MPTCP", how: "socket(IPPROTO_MPTCP)", want: "EPROTONOSUPPORT", by: bySocket, do: ways("protocol", "{A4}", "443", "1", "262")},
	{attack: "io_uring", how: "IORING_OP_CONNECT", want: "ECONNREFUSED", by: byConnect, do: ways("uring", "{A4}", "443", "0")},
	{attack: "io_uring", how: "IORING_OP_CONNECT, SQPOLL: by a kernel thread", want: "ECONNREFUSED", by: byTCP, do: ways("uring", "{A6}", "443", "2")},
	{attack: "io_uring", how: "IORING_OP_SEND of a datagram", want: "EPERM", by: bySendmsg, do: ways("uring_send", "{A4}", "443")},
	{attack: "socket used again", how: "connect(AF_UNSPEC), then connect()", want: "ECONNREFUSED", by: byConnect, do: ways("reused", "{G4}", "80", "{A4}", "443")},
	{attack: "socket used again", how: "the same, after a direct connection", want: "ECONNREFUSED", by: byConnect, do: ways("reused", "{API4}", "7", "{A4}", "443")},
	{attack: "UDP", how: "sendto(), IPv4", want: "EPERM", by: bySendmsg, do: ways("udp", "{A4}", "443")},
	{attack: "UDP", how: "sendto(), IPv6", want: "EPERM", by: bySendmsg, do: ways("udp", "{A6}", "443")},
	{attack: "UDP", how: "connected to an allowed server, sendto() elsewhere", want: "EPERM", by: bySendmsg, do: ways("udp_elsewhere", "{API4}", "7", "{A4}", "443")},
	{attack: "UDP", how: "connected to a DNS server, sendto() elsewhere", want: "EPERM", by: bySendmsg, do: ways("udp_elsewhere", "{R4}", "53", "{A4}", "443")},
	{attack: "UDP", how: "connect() to an allowed server, then elsewhere", want: "ECONNREFUSED", by: byConnect, do: ways("udp_reconnect", "{API4}", "7", "{A4}", "443")},
	{attack: "UDP", how: "sendmmsg(), the second datagram elsewhere", want: "1 of 2", by: bySendmsg, do: ways("udp_batch", "{API4}", "7", "{A4}", "443")},
	{attack: "UDP", how: "MSG_MORE to an allowed server, the rest elsewhere", want: "sent", by: "the kernel: one datagram, to its first address", do: ways("corked", "{API4}", "7", "{A4}", "443"), noTwin: "a corked datagram goes to its first address"},
	{attack: "UDP", how: "broadcast", want: "EPERM", by: bySendmsg, do: ways("broadcast", "255.255.255.255", "9999"), proof: wirePort(9999)},
	{attack: "UDP", how: "multicast, link-local IPv6", want: "EPERM", by: bySendmsg, do: ways("udp", "ff02::1", "9998"), proof: wirePort(9998)},
	{attack: "multicast group", how: "IP_ADD_MEMBERSHIP: the group is told to the link (IGMP)", want: "EPERM", by: bySetsockopt, do: ways("group", "239.83.69.67"), seen: is("joined")},
	{attack: "multicast group", how: "IPV6_JOIN_GROUP: 14 bytes are told to the link (MLD)", want: "EPERM", by: bySetsockopt, do: ways("group", "ff0e:5345:4352:4554::1"), seen: is("joined")},
	{attack: "multicast group", how: "MCAST_JOIN_GROUP", want: "EPERM", by: bySetsockopt, do: ways("group", "239.83.69.67", "group_req"), seen: is("joined")},
	{attack: "multicast group", how: "MCAST_JOIN_GROUP, IPv6", want: "EPERM", by: bySetsockopt, do: ways("group", "ff0e:5345:4352:4554::1", "group_req"), seen: is("joined")},
	{attack: "multicast group", how: "MCAST_JOIN_SOURCE_GROUP of a common group", want: "EPERM", by: bySetsockopt, do: ways("group", "224.0.0.251", "source"), seen: func(got string) bool { return got == "joined" || got == "EINVAL" }},
	{attack: "QUIC", how: "UDP 443 of an allowed host, connected", want: "EPERM", by: byPackets, do: ways("udp_connected", "{G4}", "443"), proof: wire("142.250.74.10")},
	{attack: "QUIC", how: "the same after a question to port 53 by the socket", want: "EPERM", by: byPackets, do: ways("udp_after", "dns", "{G4}", "443"), proof: wireTo("142.250.74.10", 443)},
	{attack: "QUIC", how: "the same after a connect() that fails, of family 99 to loopback", want: "EPERM", by: byPackets, do: ways("udp_after", "family", "{G4}", "443"), proof: wireTo("142.250.74.10", 443)},
	{attack: "QUIC", how: "the same after a datagram to loopback", want: "EPERM", by: byPackets, do: ways("udp_after", "loopback", "{G4}", "443"), proof: wireTo("142.250.74.10", 443)},
	{attack: "QUIC", how: "the same after a question to port 53 by the socket, IPv6", want: "EPERM", by: byPackets, do: ways("udp_after", "dns", "{G6}", "443"), proof: wireTo("2a00:1450:4001:80b::200a", 443)},
	{attack: "QUIC", how: "the same after a connect() that fails, IPv6", want: "EPERM", by: byPackets, do: ways("udp_after", "family", "{G6}", "443"), proof: wireTo("2a00:1450:4001:80b::200a", 443)},
	{attack: "QUIC", how: "UDP 443 of an allowed host, sendto(), IPv6", want: "EPERM", by: bySendmsg, do: ways("udp", "{G6}", "443"), proof: wire("2a00:1450:4001:80b::200a")},
	{attack: "UDP-Lite", how: "socket(IPPROTO_UDPLITE)", want: "EPERM", by: bySocket, do: ways("protocol", "{A4}", "443", "2", "136")},
	{attack: "SCTP", how: "socket(IPPROTO_SCTP)", want: "EPERM", by: bySocket, do: ways("protocol", "{A4}", "443", "1", "132")},
	{attack: "DCCP", how: "socket(SOCK_DCCP)", want: "EPERM", by: bySocket, do: ways("protocol", "{A4}", "443", "6", "33")},
	{attack: "ping socket", how: "socket(SOCK_DGRAM, IPPROTO_ICMP), unprivileged", want: "EPERM", by: bySocket, do: ways("protocol", "{A4}", "0", "2", "1")},
	{attack: "raw socket", how: "ICMP", want: "EPERM", by: bySocket, do: ways("raw", "{A4}", "1")},
	{attack: "raw socket", how: "ICMPv6", want: "EPERM", by: bySocket, do: ways("raw", "{A6}", "58")},
	{attack: "raw socket", how: "GRE", want: "EPERM", by: bySocket, do: ways("raw", "{A4}", "47")},
	{attack: "raw socket", how: "IP in IP", want: "EPERM", by: bySocket, do: ways("raw", "{A4}", "4")},
	{attack: "raw socket", how: "a SYN with IP_HDRINCL", want: "EPERM", by: bySocket, do: ways("hdrincl", "{A4}")},
	{attack: "raw socket", how: "a UDP datagram with an IPv6 header of its own", want: "EPERM", by: bySocket, do: ways("hdrincl6", "{A6}")},
	{attack: "SO_MARK", how: "the marks that proxies exempt themselves by (1337)", want: "ECONNREFUSED", by: "nothing is exempt by mark", do: ways("option", "{A4}", "443", n(unix.SOL_SOCKET), n(unix.SO_MARK), "1337")},
	{attack: "SO_BINDTODEVICE", how: "the uplink by name", want: "ECONNREFUSED", by: byConnect, do: ways("option", "{A4}", "443", n(unix.SOL_SOCKET), n(unix.SO_BINDTODEVICE), "eth0")},
	{attack: "another user", how: "uid 1337, whom Istio exempts", want: "ECONNREFUSED", by: "nothing is exempt by user", do: ways("as_user", "{A4}", "443", "1337")},
	{attack: "another user", how: "uid 65534, no privilege", want: "ECONNREFUSED", by: byConnect, do: ways("as_user", "{A6}", "443", "65534")},
}

// packets are ways to make a packet go elsewhere than the flow.
var packets = []row{
	{attack: "source route", how: "IP_OPTIONS with LSRR, UDP to an allowed server", want: "EPERM", by: byPackets, do: ways("source_route", "{A4}", "{API4}", "7", "2")},
	{attack: "source route", how: "IP_OPTIONS with LSRR, TCP to an allowed server", want: "silence", by: byPackets, do: ways("source_route", "{A4}", "{API4}", "7", "1")},
	{attack: "source route", how: "IPV6_RTHDR with segments, UDP to an allowed server", want: "EPERM", by: byPackets, do: ways("routing_header", "{A6}", "{API6}", "7")},
	{attack: "extension headers", how: "IPV6_DSTOPTS in front of UDP", want: "EPERM", by: byPackets, do: ways("extension", "{API6}", "7"), proof: wire("2606:2800:21f:cb07:6820:80da:af6b:8b2c")},
	{attack: "forged peer", how: "the stranger seems to ask first: IPV6_FREEBIND, ::1", want: "EPERM", by: byPackets, do: ways("forged_peer", "{A6}", "443")},
	{attack: "forged peer", how: "the stranger seems to ask first: IP_TRANSPARENT, 127.0.0.1", want: "EPERM", by: byPackets, do: ways("forged_peer", "{A4}", "443")},
	{attack: "loopback by the uplink", how: "SO_BINDTODEVICE, UDP to 127.0.0.1", want: "EPERM", by: byPackets, do: ways("device_loopback", "127.0.0.1", "9"), proof: wire("127.0.0.1")},
	{attack: "loopback by the uplink", how: "SO_BINDTODEVICE, anything to port 53", want: "sent", by: byDevice, do: ways("dns_by_device", "{R4}", "53"), proof: wire("127.0.0.1", world.ResolverV4)},
	{attack: "loopback by the uplink", how: "the same, IPv6", want: "sent", by: byDevice, do: ways("dns_by_device", "{R6}", "53"), proof: wire("::1", world.ResolverV6)},
	{attack: "loopback by the uplink", how: "SO_BINDTODEVICE, UDP to ::1", want: "EPERM", by: byPackets, do: ways("device_loopback", "::1", "9"), proof: wire("::1")},
	{attack: "forged peer", how: "the same through a tun device, with CAP_NET_ADMIN", want: "sent", open: true, by: "the packet did arrive by a device; exec takes CAP_NET_ADMIN away", do: ways("tun_peer", "{A4}", "443")},
	{attack: "tunnel device", how: "vxlan to the stranger, with CAP_NET_ADMIN", want: "sent|ENOBUFS", open: true, by: "the kernel's own socket sends; exec takes CAP_NET_ADMIN away", do: ways("tunnelled", "{A4}")},
	{attack: "AF_PACKET", how: "no privilege: uid 65534", want: "EPERM", by: "the kernel: no CAP_NET_RAW", do: ways("packet_as", "{A4}", "65534"), noTwin: "needs CAP_NET_RAW"},
	{attack: "AF_PACKET", how: "a frame past the IP stack, with CAP_NET_RAW", want: "ENOBUFS", by: byUplink, do: ways("packet", "{A4}")},
	{attack: "AF_PACKET", how: "the same by an interface without a default route", want: "ENOBUFS", by: byUplink, do: ways("packet", "{A4}", "0", "free0"), seen: is("sent")},
	{attack: "AF_PACKET", how: "the same by a pod's veth", want: "ENOBUFS", by: byVeth, do: ways("packet", "{A4}", "0", "pod0"), seen: is("sent")},
	{attack: "AF_PACKET", how: "the same with PACKET_QDISC_BYPASS", want: "sent", open: true, by: "the frame passes no program of the sending device; exec takes CAP_NET_RAW away", do: ways("packet", "{A4}", "1")},
	{attack: "AF_XDP", how: "socket(AF_XDP), with CAP_NET_RAW", want: "created", open: true, by: "no hook sees other families; exec takes CAP_NET_RAW away", do: ways("family_only", "44", "3"), seen: is("created")},
}

// behind are pods and machines, whose interface is guarded: nothing is asked of
// sockets, cgroups or namespaces.
var behind = []row{
	{attack: "frame in a pod", how: "AF_PACKET, a datagram, IPv4", want: "sent", by: byVeth, do: pod("frame", "udp", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "AF_PACKET, a datagram, IPv6", want: "sent", by: byVeth, do: pod("frame", "udp", "{P6}", "{A6}", "{mac}")},
	{attack: "frame in a pod", how: "the same with PACKET_QDISC_BYPASS", want: "sent", by: byVeth, do: pod("frame", "udp", "{P4}", "{A4}", "{mac}", "1")},
	{attack: "frame in a pod", how: "a SYN, IPv4", want: "sent", by: byVeth, do: pod("frame", "syn", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "a SYN, IPv6, PACKET_QDISC_BYPASS", want: "sent", by: byVeth, do: pod("frame", "syn", "{P6}", "{A6}", "{mac}", "1")},
	{attack: "frame in a pod", how: "the middle of a connection that never began", want: "sent", by: byVeth, do: pod("frame", "middle", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "the source address of another pod", want: "sent", by: byVeth, do: pod("frame", "udp", "10.88.200.7", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "a later fragment, IPv4", want: "sent", by: byVeth, do: pod("frame", "fragment", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "a later fragment, IPv6", want: "sent", by: byVeth, do: pod("frame", "fragment", "{P6}", "{A6}", "{mac}")},
	{attack: "frame in a pod", how: "IP options", want: "sent", by: byVeth, do: pod("frame", "options", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "IPv6 destination options", want: "sent", by: byVeth, do: pod("frame", "options", "{P6}", "{A6}", "{mac}")},
	{attack: "frame in a pod", how: "ICMP echo", want: "sent", by: byVeth, do: pod("frame", "ping", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "ICMPv6 echo", want: "sent", by: byVeth, do: pod("frame", "ping", "{P6}", "{A6}", "{mac}")},
	{attack: "frame in a pod", how: "GRE", want: "sent", by: byVeth, do: pod("frame", "gre", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "a datagram by a veth that is not guarded, IPv4", want: "sent", by: byVeth, do: openPod("frame", "udp", "{P4}", "{A4}", "{mac}")},
	{attack: "frame in a pod", how: "the same, IPv6", want: "sent", by: byVeth, do: openPod("frame", "udp", "{P6}", "{A6}", "{mac}")},
	{attack: "frame in a pod", how: "the same by that veth with PACKET_QDISC_BYPASS", want: "sent", by: byVeth, do: openPod("frame", "udp", "{P4}", "{A4}", "{mac}", "1")},
	{attack: "tunnel device in a pod", how: "vxlan to the stranger, with CAP_NET_ADMIN", want: "sent|ENOBUFS", by: byVeth, do: pod("tunnelled", "{A4}")},
	{attack: "not captured, in a pod", how: "connect() of a socket that no hook saw", want: "ECONNREFUSED", by: byVeth, do: podOutside("connect", "{A4}", "443")},
	{attack: "machine", how: "connect(), IPv4", want: "refused", by: byVeth, do: machineDial(func(a *arena) netip.AddrPort { return netip.AddrPortFrom(a.stranger().V4, 443) })},
	{attack: "machine", how: "connect(), IPv6", want: "refused", by: byVeth, do: machineDial(func(a *arena) netip.AddrPort { return netip.AddrPortFrom(a.stranger().V6, 443) })},
	{attack: "machine", how: "TLS to an allowed address, SNI of a stranger", want: "reset", by: byHello, do: machineTLS("b.cdn.example", 0), proof: sharedHits},
	{attack: "machine", how: "the same, byte by byte", want: "reset", by: byHello, do: machineTLS("b.cdn.example", 1), proof: sharedHits},
	{attack: "machine", how: "DNS to another server: a name that is not allowed", want: "REFUSED", by: byDNS, do: machineDNS(world.OtherResolverV4, "leak.stranger.example"), proof: asked("leak.stranger")},
}

// borrowed are sockets, cgroups, namespaces and ports of others.
var borrowed = []row{
	{attack: "descriptor from outside", how: "SCM_RIGHTS, connected before it is passed", want: "answered", open: true, by: "the socket is its maker's; its packets are not captured", do: ways("passed_in", "{outside}", "{A4}", "80", "after"), seen: is("answered")},
	{attack: "descriptor from outside", how: "SCM_RIGHTS, connect() in the captured process", want: "connected", open: true, by: "the socket is its maker's; its hooks are not ours", do: ways("passed_in", "{outside}", "{A4}", "80", "before")},
	{attack: "descriptor from outside", how: "pidfd_getfd(), with CAP_SYS_PTRACE", want: "connected", open: true, by: "the socket is its maker's; take CAP_SYS_PTRACE away", do: ways("pidfd", "{outside}", "{A4}", "80")},
	{attack: "confused deputy", how: "a forwarder on loopback that is not captured", want: "answered", open: true, by: "what is not captured is not ours to decide; capture it too", do: ways("deputy", "{A4}", "8118"), seen: is("answered")},
	{attack: "descriptor to the outside", how: "SCM_RIGHTS, connect() by a process outside", want: "ECONNREFUSED", by: "connect hook: no workload", do: ways("passed_out", "{outside}", "{A4}", "80")},
	{attack: "another cgroup", how: "root moves out after socket()", want: "ECONNREFUSED", by: "connect hook: no workload", do: ways("moved", "{outside}", "{A4}", "80", "after")},
	{attack: "another cgroup", how: "root moves out before socket()", want: "connected", open: true, by: "root may move out; run --cgroup on the tree's root leaves no outside", do: ways("moved", "{outside}", "{A4}", "80", "before")},
	{attack: "new network namespace", how: "unshare(CLONE_NEWNET), then what is proxied", want: "ENETUNREACH", by: "no path to the gate", do: ways("new_netns", "{G4}", "80"), noTwin: "a new namespace has no wire"},
	{attack: "other network namespace", how: "setns() into one with a way out", want: "ECONNREFUSED", by: "the cgroup's hooks run in every namespace", do: ways("other_netns", "{net}", "{A4}", "80"), proof: func(a *arena) int { return a.stranger().Conns() }},
	{attack: "egressd's ports", how: "connect() to 127.0.0.1:15001", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("connect", "127.0.0.1", "15001"), seen: accepted},
	{attack: "egressd's ports", how: "connect() to [::1]:15001", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("connect", "::1", "15001"), seen: accepted},
	{attack: "egressd's ports", how: "connect() to 0.0.0.0:15001", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("connect", "0.0.0.0", "15001"), seen: accepted},
	{attack: "egressd's ports", how: "connect() to the node's address, port 15001", want: "ECONNREFUSED", by: byConnect, do: ways("connect", "{N4}", "15001"), seen: accepted},
	{attack: "egressd's ports", how: "UDP to 127.0.0.1:15053", want: "EPERM", by: "sendmsg hook: own port", do: ways("udp", "127.0.0.1", "15053"), seen: is("sent")},
	{attack: "source port used again", how: "of a proxied connection, to 127.0.0.1:15001", want: "ECONNREFUSED", by: "connect hook: own port", do: ways("same_tuple", "{G4}", "80", "127.0.0.1", "15001"), noTwin: "nothing is recorded of who is not captured"},
	{attack: "exhaustion", how: "2,000 silent connections, then the stranger", want: "ECONNREFUSED, others: HTTP 200", by: byConnect, do: ways("crowd", "{G4}", "80", "2000", "{A4}", "443")},
}
