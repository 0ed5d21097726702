/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The one reader of packets: of sockets of this kernel (skb_egress), whose stack made
 * the headers, and of frames (TC), from whoever made them, where nothing is taken for
 * granted. */
#ifndef EGRESSD_PACKET_H
#define EGRESSD_PACKET_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#include "report.h"

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16
#define TCP_URG 32

/* A hop-by-hop header with nothing but the jumbo option (RFC 2675). */
#define JUMBO_LEN 8
#define OPTION_JUMBO 0xc2

struct packet {
	struct flow to; /* the destination; family and protocol */
	__u8 src[16];
	__u16 sport;     /* network order */
	__u16 ethertype; /* network order */
	__u32 l2;        /* bytes of the link-layer header */
	__u32 l4;        /* offset of the transport header */
	__u32 off;       /* of the payload */
	__u32 end;       /* of the payload: a short frame is padded behind it */
	__u32 seq;       /* host order */
	__u32 ack;       /* host order */
	__u8 flags;      /* of TCP */
	__u8 type;       /* of ICMPv6 */
	__u8 hops;       /* hop limit */
	bool parsed;     /* the ports are valid */
};

/* struct tcphdr (linux/tcp.h) without bit-fields. */
struct tcp_header {
	__u16 source, dest;
	__u32 seq, ack;
	__u8 length; /* in its upper half, in words */
	__u8 flags;
	__u16 window, sum, urgent;
};

static __always_inline bool is_ip(const struct packet *p)
{
	return p->ethertype == bpf_htons(ETH_P_IP) || p->ethertype == bpf_htons(ETH_P_IPV6);
}

/* A segment of over 64 KB, as the kernel makes them for IPv6 where the device
 * takes them (BIG TCP, loopback among others): a hop-by-hop header with the jumbo
 * option stands before TCP, and leaves again before the wire. */
static __always_inline bool is_big_tcp(struct __sk_buff *skb)
{
	__u8 head[3] = {}, first = 0;
	__u16 len = 1;

	return !bpf_skb_load_bytes(skb, offsetof(struct ipv6hdr, nexthdr), &first, 1) &&
	       first == IPPROTO_HOPOPTS &&
	       !bpf_skb_load_bytes(skb, offsetof(struct ipv6hdr, payload_len), &len, 2) &&
	       len == 0 && !bpf_skb_load_bytes(skb, sizeof(struct ipv6hdr), head, 3) &&
	       head[0] == IPPROTO_TCP && head[1] == 0 && head[2] == OPTION_JUMBO;
}

/* IPv4 options and IPv6 extension headers in front of TCP or UDP. A source
 * route (IP_OPTIONS, IP_RETOPTS, IPV6_RTHDR; none needs a privilege) sends a
 * packet to another address than the one that the hooks of connect() and
 * sendto() decided about; no ordinary program uses any of them. skb_egress runs
 * before fragmentation, so a fragment header is nothing ordinary either. One byte
 * is read, for this is asked about every packet of a socket. */
static __always_inline bool has_options(struct __sk_buff *skb)
{
	__u8 b = 0;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		return bpf_skb_load_bytes(skb, 0, &b, 1) || (b & 0xf) != 5;
	if (bpf_skb_load_bytes(skb, offsetof(struct ipv6hdr, nexthdr), &b, 1))
		return true;
	return b != IPPROTO_TCP && b != IPPROTO_UDP && !is_big_tcp(skb);
}

/* own: the packet is one of a socket of this kernel, whose lengths and fragments are
 * the stack's business. Returns an enum egd_reason; the
 * addresses and the protocol are read all the same unless the header is cut off. */
static __always_inline __u8 read_ip4(struct __sk_buff *skb, bool own, struct packet *p)
{
	struct iphdr ip;
	__u32 len;

	p->to.family = AF_INET;
	if (bpf_skb_load_bytes(skb, p->l2, &ip, sizeof(ip)))
		return EGD_R_MALFORMED;
	set_mapped(p->src, ip.saddr);
	set_mapped(p->to.addr, ip.daddr);
	p->to.proto = ip.protocol;
	p->hops = ip.ttl;
	p->l4 = p->l2 + ip.ihl * 4;
	len = bpf_ntohs(ip.tot_len);
	p->end = own ? skb->len : p->l2 + len;
	if (ip.version != 4)
		return EGD_R_MALFORMED;
	if (ip.ihl != 5)
		return EGD_R_OPTIONS;
	if (own)
		return EGD_R_NONE;
	if (ip.frag_off & bpf_htons(0x3fff)) /* more fragments, or an offset */
		return EGD_R_FRAGMENT;
	if (len < sizeof(ip) || p->end > skb->len)
		return EGD_R_MALFORMED;
	return EGD_R_NONE;
}

/* What may stand between the headers of an IPv6 frame. Behind a hop-by-hop header only
 * a report of multicast listeners passes (RFC 3810 wants the router alert there), to a
 * link-local group. */
static __always_inline __u8 check_ip6(struct __sk_buff *skb, struct packet *p)
{
	__u8 next[2];

	/* IPv4 addresses in IPv6 would be looked up as IPv4's. */
	if (p->end > skb->len || is_mapped(p->to.addr) || is_mapped(p->src))
		return EGD_R_MALFORMED;
	switch (p->to.proto) {
	case IPPROTO_FRAGMENT:
		return EGD_R_FRAGMENT;
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
	case IPPROTO_AH:
		return EGD_R_OPTIONS;
	case IPPROTO_HOPOPTS:
		if (bpf_skb_load_bytes(skb, p->l4, next, 2) || next[0] != IPPROTO_ICMPV6 ||
		    next[1] != 0 || p->to.addr[0] != 0xff || p->to.addr[1] != 2)
			return EGD_R_OPTIONS;
		p->to.proto = IPPROTO_ICMPV6;
		p->l4 += 8;
	}
	return EGD_R_NONE;
}

static __always_inline __u8 read_ip6(struct __sk_buff *skb, bool own, struct packet *p)
{
	struct ipv6hdr ip;

	p->to.family = AF_INET6;
	if (bpf_skb_load_bytes(skb, p->l2, &ip, sizeof(ip)))
		return EGD_R_MALFORMED;
	__builtin_memcpy(p->src, &ip.saddr, 16);
	__builtin_memcpy(p->to.addr, &ip.daddr, 16);
	p->to.proto = ip.nexthdr;
	p->hops = ip.hop_limit;
	p->l4 = p->l2 + sizeof(ip);
	p->end = own ? skb->len : p->l4 + bpf_ntohs(ip.payload_len);
	if (ip.version != 6)
		return EGD_R_MALFORMED;
	if (!own)
		return check_ip6(skb, p);
	if (ip.nexthdr == IPPROTO_HOPOPTS && is_big_tcp(skb)) {
		p->to.proto = IPPROTO_TCP;
		p->l4 += JUMBO_LEN;
	}
	return EGD_R_NONE;
}

/* The IP header behind l2. A function of its own, so that the header is not on the
 * stack for longer. */
static __noinline __u8 read_ip(struct __sk_buff *skb, bool own, struct packet *p)
{
	p->ethertype = (__u16)skb->protocol;
	return p->ethertype == bpf_htons(ETH_P_IP) ? read_ip4(skb, own, p) : read_ip6(skb, own, p);
}

static __always_inline __u8 read_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcp_header tcp;
	__u32 len;

	if (p->end < p->l4 + sizeof(tcp) || bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)))
		return EGD_R_MALFORMED;
	p->sport = tcp.source;
	p->to.port = tcp.dest;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack);
	p->flags = tcp.flags;
	len = (tcp.length >> 4) * 4;
	p->off = p->l4 + len;
	if (len < sizeof(tcp) || p->off > p->end)
		return EGD_R_MALFORMED;
	p->parsed = true;
	return EGD_R_NONE;
}

static __always_inline __u8 read_udp(struct __sk_buff *skb, struct packet *p)
{
	__u16 ports[2];

	if (p->end < p->l4 + sizeof(struct udphdr) || bpf_skb_load_bytes(skb, p->l4, ports, 4))
		return EGD_R_MALFORMED;
	p->sport = ports[0];
	p->to.port = ports[1];
	p->off = p->l4 + sizeof(struct udphdr);
	p->parsed = true;
	return EGD_R_NONE;
}

/* The IP header of a packet of a socket of this kernel. */
static __always_inline __u8 read_own(struct __sk_buff *skb, struct packet *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	return read_ip(skb, true, p);
}

/* A segment of a socket. False: not a TCP segment whose headers are where they should
 * be. A socket's own segments never come with extension headers unless the application
 * asks for them, or in fragments: TCP does its own segmentation. */
__noinline int egd_read_segment(struct __sk_buff *skb, struct packet *p)
{
	return p && !read_own(skb, p) && p->to.proto == IPPROTO_TCP && !read_tcp(skb, p);
}

/* A datagram of a socket. False: no UDP where it should be. IP options and extension
 * headers were refused before. */
__noinline int egd_read_datagram(struct __sk_buff *skb, struct packet *p)
{
	return p && !read_own(skb, p) && p->to.proto == IPPROTO_UDP && !read_udp(skb, p);
}

/* The number of the first byte of the payload: SYN takes one, and data with it is Fast
 * Open (RFC 7413). */
static __always_inline __u32 payload_seq(const struct packet *p)
{
	return p->seq + !!(p->flags & TCP_SYN);
}

/* A frame; l3: without a link-layer header. Returns an enum egd_reason; what is not IP
 * has none. */
static __always_inline __u8 read_frame(struct __sk_buff *skb, bool l3, struct packet *p)
{
	__u16 ethertype;
	__u8 bad;

	p->ethertype = (__u16)skb->protocol;
	p->l2 = l3 ? 0 : ETH_HLEN;
	if (skb->vlan_present)
		return EGD_R_ETHERTYPE;
	/* The stack goes by skb->protocol, the next machine by the frame. */
	if (!l3 && (bpf_skb_load_bytes(skb, offsetof(struct ethhdr, h_proto), &ethertype, 2) ||
		    ethertype != p->ethertype))
		return EGD_R_ETHERTYPE;
	if (!is_ip(p))
		return EGD_R_NONE;
	bad = read_ip(skb, false, p);
	if (bad)
		return bad;
	switch (p->to.proto) {
	case IPPROTO_TCP:
		return read_tcp(skb, p);
	case IPPROTO_UDP:
		return read_udp(skb, p);
	case IPPROTO_ICMPV6:
		return bpf_skb_load_bytes(skb, p->l4, &p->type, 1) ? EGD_R_MALFORMED : EGD_R_NONE;
	}
	return EGD_R_NONE;
}

/* What a link needs before IP works: ARP; neighbour discovery by hosts (no
 * router's advertisements and redirects: a workload is no router); reports of
 * multicast listeners; DHCP to whoever is on the link. None of it is routed. */
static __always_inline bool is_control(const struct packet *p)
{
	const __u32 *d = (const __u32 *)p->to.addr;

	if (p->ethertype == bpf_htons(ETH_P_ARP))
		return true;
	if (p->to.family == AF_INET6 && p->to.proto == IPPROTO_ICMPV6)
		switch (p->type) {
		case 133:
		case 135:
		case 136: /* RFC 4861: never from behind a router */
			return p->hops == 255;
		case 131:
		case 132:
		case 143:
			return p->hops == 1 && p->to.addr[0] == 0xff && p->to.addr[1] == 2;
		}
	if (!p->parsed || p->to.proto != IPPROTO_UDP)
		return false;
	if (p->to.family == AF_INET)
		return p->sport == bpf_htons(68) && p->to.port == bpf_htons(67) &&
		       d[3] == 0xffffffff;
	return p->sport == bpf_htons(546) && p->to.port == bpf_htons(547) &&
	       d[0] == bpf_htonl(0xff020000) && !d[1] && !d[2] && d[3] == bpf_htonl(0x00010002);
}

#endif
