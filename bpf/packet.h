/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Packets as an interface sees them, from whoever made them: nothing in them
 * is taken for granted. And the resets that answer them. */
#ifndef EGRESSD_PACKET_H
#define EGRESSD_PACKET_H

#include <linux/icmpv6.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include "report.h"

#define TCP_FIN 1
#define TCP_SYN 2
#define TCP_RST 4
#define TCP_ACK 16
#define TCP_URG 32

/* What a TC program returns. The next program, or the stack: never
 * TC_ACT_OK, behind which programs of others would not be asked. */
#define WIRE_PASS (-1) /* TC_ACT_UNSPEC, TCX_NEXT */
#define WIRE_DROP 2    /* TC_ACT_SHOT */
/* What a decision comes to besides; done where the stack has room for it. */
#define WIRE_STEER 100  /* give it to one of egressd's sockets */
#define WIRE_REFUSE 101 /* answer it with a reset */
#define WIRE_RESET 102  /* reset both ends */

/* 802.1X and LLDP (linux/if_ether.h has the first only). */
#define ETHERTYPE_EAPOL 0x888e
#define ETHERTYPE_LLDP 0x88cc

struct packet {
	__u8 src[16];
	__u8 dst[16];
	__u16 sport; /* network order */
	__u16 dport; /* network order */
	__u32 l2;    /* bytes of the link-layer header */
	__u32 l4;    /* offset of the transport header */
	__u32 off;   /* of the payload */
	__u32 end;   /* of the payload: a short frame is padded behind it */
	__u32 seq;   /* host order */
	__u32 ack;   /* host order */
	__u16 ethertype; /* network order */
	__u8 family;
	__u8 proto;
	__u8 flags; /* of TCP */
	__u8 type;  /* of ICMPv6 */
	__u8 hops;  /* hop limit */
	bool parsed; /* the ports are valid */
};

static __always_inline bool is_ip(const struct packet *p)
{
	return p->ethertype == bpf_htons(ETH_P_IP) || p->ethertype == bpf_htons(ETH_P_IPV6);
}

static __always_inline __u8 parse_ip4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;
	__u32 len;

	p->family = AF_INET;
	if (bpf_skb_load_bytes(skb, p->l2, &ip, sizeof(ip)))
		return EGD_R_MALFORMED;
	set_mapped(p->src, ip.saddr);
	set_mapped(p->dst, ip.daddr);
	p->proto = ip.protocol;
	p->hops = ip.ttl;
	if (ip.version != 4)
		return EGD_R_MALFORMED;
	if (ip.ihl != 5)
		return EGD_R_OPTIONS;
	if (ip.frag_off & bpf_htons(0x3fff)) /* more fragments, or an offset */
		return EGD_R_FRAGMENT;
	len = bpf_ntohs(ip.tot_len);
	p->l4 = p->l2 + sizeof(ip);
	p->end = p->l2 + len;
	if (len < sizeof(ip) || p->end > skb->len)
		return EGD_R_MALFORMED;
	return EGD_R_NONE;
}

/* Behind a hop-by-hop header only a report of multicast listeners passes
 * (RFC 3810 wants the router alert there), to a link-local group. */
static __always_inline __u8 parse_ip6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;
	__u8 next[2];

	p->family = AF_INET6;
	if (bpf_skb_load_bytes(skb, p->l2, &ip, sizeof(ip)))
		return EGD_R_MALFORMED;
	__builtin_memcpy(p->src, &ip.saddr, 16);
	__builtin_memcpy(p->dst, &ip.daddr, 16);
	p->proto = ip.nexthdr;
	p->hops = ip.hop_limit;
	p->l4 = p->l2 + sizeof(ip);
	p->end = p->l4 + bpf_ntohs(ip.payload_len);
	if (ip.version != 6 || p->end > skb->len)
		return EGD_R_MALFORMED;
	/* IPv4 addresses in IPv6 would be looked up as IPv4's. */
	if (is_mapped(p->dst) || is_mapped(p->src))
		return EGD_R_MALFORMED;
	if (p->proto == IPPROTO_FRAGMENT)
		return EGD_R_FRAGMENT;
	if (p->proto == IPPROTO_HOPOPTS) {
		if (bpf_skb_load_bytes(skb, p->l4, next, 2) || next[0] != IPPROTO_ICMPV6 ||
		    next[1] != 0 || p->dst[0] != 0xff || p->dst[1] != 2)
			return EGD_R_OPTIONS;
		p->proto = IPPROTO_ICMPV6;
		p->l4 += 8;
		return EGD_R_NONE;
	}
	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP && p->proto != IPPROTO_ICMPV6)
		return p->proto == IPPROTO_ROUTING || p->proto == IPPROTO_DSTOPTS ||
				       p->proto == IPPROTO_AH ?
			       EGD_R_OPTIONS : EGD_R_NONE;
	return EGD_R_NONE;
}

static __always_inline __u8 parse_tcp(struct __sk_buff *skb, struct packet *p)
{
	struct tcphdr tcp;
	__u8 b[2];

	if (p->end < p->l4 + sizeof(tcp) || bpf_skb_load_bytes(skb, p->l4, &tcp, sizeof(tcp)) ||
	    bpf_skb_load_bytes(skb, p->l4 + 12, b, 2))
		return EGD_R_MALFORMED;
	p->sport = tcp.source;
	p->dport = tcp.dest;
	p->seq = bpf_ntohl(tcp.seq);
	p->ack = bpf_ntohl(tcp.ack_seq);
	p->flags = b[1];
	p->off = p->l4 + (b[0] >> 4) * 4;
	if ((b[0] >> 4) < 5 || p->off > p->end)
		return EGD_R_MALFORMED;
	p->parsed = true;
	return EGD_R_NONE;
}

/* Reads the headers; returns an enum egd_reason. What is not IP has none. */
static __always_inline __u8 parse_packet(struct __sk_buff *skb, bool l3, struct packet *p)
{
	__u16 ports[2];
	__u8 bad;

	p->ethertype = (__u16)skb->protocol;
	p->l2 = l3 ? 0 : ETH_HLEN;
	if (skb->vlan_present)
		return EGD_R_ETHERTYPE;
	/* The stack goes by skb->protocol, the next machine by the frame. */
	if (!l3 && (bpf_skb_load_bytes(skb, 12, ports, 2) || ports[0] != p->ethertype))
		return EGD_R_ETHERTYPE;
	if (!is_ip(p))
		return EGD_R_NONE;
	bad = p->ethertype == bpf_htons(ETH_P_IP) ? parse_ip4(skb, p) : parse_ip6(skb, p);
	if (bad)
		return bad;
	if (p->proto == IPPROTO_TCP)
		return parse_tcp(skb, p);
	if (p->proto == IPPROTO_ICMPV6)
		return bpf_skb_load_bytes(skb, p->l4, &p->type, 1) ? EGD_R_MALFORMED : EGD_R_NONE;
	if (p->proto != IPPROTO_UDP)
		return EGD_R_NONE;
	if (p->end < p->l4 + 8 || bpf_skb_load_bytes(skb, p->l4, ports, 4))
		return EGD_R_MALFORMED;
	p->sport = ports[0];
	p->dport = ports[1];
	p->off = p->l4 + 8;
	p->parsed = true;
	return EGD_R_NONE;
}

/* What a link needs before IP works: ARP; neighbour discovery by hosts (no
 * router's advertisements and redirects: a workload is no router); reports of
 * multicast listeners; DHCP to whoever is on the link. None of it is routed. */
static __always_inline bool is_control(const struct packet *p)
{
	const __u32 *d = (const __u32 *)p->dst;

	if (p->ethertype == bpf_htons(ETH_P_ARP))
		return true;
	if (p->family == AF_INET6 && p->proto == IPPROTO_ICMPV6)
		switch (p->type) {
		case 133: case 135: case 136: /* RFC 4861: never from behind a router */
			return p->hops == 255;
		case 131: case 132: case 143:
			return p->hops == 1 && p->dst[0] == 0xff && p->dst[1] == 2;
		}
	if (!p->parsed || p->proto != IPPROTO_UDP)
		return false;
	if (p->family == AF_INET)
		return p->sport == bpf_htons(68) && p->dport == bpf_htons(67) && d[3] == 0xffffffff;
	return p->sport == bpf_htons(546) && p->dport == bpf_htons(547) &&
	       d[0] == bpf_htonl(0xff020000) && !d[1] && !d[2] && d[3] == bpf_htonl(0x00010002);
}

static __always_inline __u16 fold(__s64 sum)
{
	__u64 s = (__u32)sum;

	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	return (__u16)s;
}

/* Where a reset goes. */
struct reset {
	__u32 seq, ack; /* host order */
	__u8 flags;
	bool back; /* to whoever sent the packet */
};

/* The sum of the pseudo-header and, unless the device adds it, of TCP. */
static __always_inline __u16 tcp_sum(const struct packet *p, struct tcphdr *tcp, bool whole)
{
	struct {
		__u8 src[16], dst[16];
		__u32 len, proto;
	} pseudo = { .len = bpf_htonl(sizeof(*tcp)), .proto = bpf_htonl(IPPROTO_TCP) };
	__s64 sum;

	/* The 0xffff in two mapped addresses adds nothing. */
	__builtin_memcpy(pseudo.src, p->src, 16);
	__builtin_memcpy(pseudo.dst, p->dst, 16);
	sum = bpf_csum_diff(0, 0, (__be32 *)&pseudo, sizeof(pseudo), 0);
	if (!whole)
		return fold(sum);
	return ~fold(bpf_csum_diff(0, 0, (__be32 *)tcp, sizeof(*tcp), (__u32)sum));
}

/* Whether the device is to put the checksum in (CHECKSUM_PARTIAL): then a
 * change to the checked bytes leaves the field as it is. */
static __always_inline bool sum_is_partial(struct __sk_buff *skb, __u32 at)
{
	__u16 sum = 0;

	bpf_skb_store_bytes(skb, at, &sum, 2, 0);
	bpf_l4_csum_replace(skb, at, 0, 1, 2);
	return !bpf_skb_load_bytes(skb, at, &sum, 2) && sum == 0;
}

static __always_inline long write_ip4(struct __sk_buff *skb, const struct packet *p, bool back)
{
	const __u32 *src = (const __u32 *)p->src, *dst = (const __u32 *)p->dst;
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(ip) + sizeof(struct tcphdr)),
		.frag_off = bpf_htons(0x4000),
		.ttl = 64,
		.protocol = IPPROTO_TCP,
		.saddr = back ? dst[3] : src[3],
		.daddr = back ? src[3] : dst[3],
	};

	ip.check = ~fold(bpf_csum_diff(0, 0, (__be32 *)&ip, sizeof(ip), 0));
	return bpf_skb_store_bytes(skb, p->l2, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

static __always_inline long write_ip6(struct __sk_buff *skb, const struct packet *p, bool back)
{
	struct ipv6hdr ip = {
		.version = 6,
		.payload_len = bpf_htons(sizeof(struct tcphdr)),
		.nexthdr = IPPROTO_TCP,
		.hop_limit = 64,
	};

	__builtin_memcpy(&ip.saddr, back ? p->dst : p->src, 16);
	__builtin_memcpy(&ip.daddr, back ? p->src : p->dst, 16);
	return bpf_skb_store_bytes(skb, p->l2, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/* Makes the packet a reset of its connection. p stays what the packet was. */
static __noinline long write_reset(struct __sk_buff *skb, const struct packet *p,
				   const struct reset *r)
{
	struct tcphdr tcp = {};
	__u32 tcp_at;
	__u8 mac[12], *b = (__u8 *)&tcp;

	if (!p || !r)
		return -1;
	tcp_at = p->l2 + (p->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	if (bpf_skb_change_tail(skb, tcp_at + sizeof(tcp), 0))
		return -1;
	if (p->l2 && r->back) {
		if (bpf_skb_load_bytes(skb, 0, mac + 6, 6) || bpf_skb_load_bytes(skb, 6, mac, 6) ||
		    bpf_skb_store_bytes(skb, 0, mac, 12, 0))
			return -1;
	}
	if (p->family == AF_INET ? write_ip4(skb, p, r->back) : write_ip6(skb, p, r->back))
		return -1;
	tcp.source = r->back ? p->dport : p->sport;
	tcp.dest = r->back ? p->sport : p->dport;
	tcp.seq = bpf_htonl(r->seq);
	tcp.ack_seq = bpf_htonl(r->ack);
	b[12] = 5 << 4;
	b[13] = r->flags;
	if (sum_is_partial(skb, tcp_at + 16))
		tcp.check = tcp_sum(p, &tcp, false);
	else
		tcp.check = tcp_sum(p, &tcp, true);
	return bpf_skb_store_bytes(skb, tcp_at, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM);
}

/* How many sequence numbers a segment takes. */
static __always_inline __u32 takes(const struct packet *p)
{
	return p->end - p->off + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
}

/* Answers a packet that came in with a reset, which leaves by the interface
 * that it came by. A reset is never answered (RFC 9293 section 3.10.7). */
static __noinline int refuse_packet(struct __sk_buff *skb, const struct packet *p)
{
	struct reset r = { .back = true, .flags = TCP_RST | TCP_ACK };

	if (!p || p->proto != IPPROTO_TCP || !p->parsed || (p->flags & TCP_RST))
		return WIRE_DROP;
	r.ack = p->seq + takes(p);
	if (p->flags & TCP_ACK)
		r.seq = p->ack;
	if (write_reset(skb, p, &r))
		return WIRE_DROP;
	return bpf_redirect(skb->ifindex, 0);
}

/* Resets both ends of an open connection: a copy of the packet becomes the
 * reset that goes back, the packet itself the one that goes on. at is the
 * number that the server expects next. */
static __noinline int reset_both(struct __sk_buff *skb, const struct packet *p, __u32 at)
{
	struct reset r = { .back = true, .flags = TCP_RST | TCP_ACK };

	if (!p || p->proto != IPPROTO_TCP || (p->flags & TCP_RST))
		return WIRE_DROP;
	r.seq = p->ack;
	r.ack = p->seq + takes(p);
	if (write_reset(skb, p, &r) || bpf_clone_redirect(skb, skb->ifindex, 0))
		return WIRE_DROP;
	if (p->l2) { /* the way back was written into the frame */
		__u8 mac[12];

		if (bpf_skb_load_bytes(skb, 0, mac + 6, 6) || bpf_skb_load_bytes(skb, 6, mac, 6) ||
		    bpf_skb_store_bytes(skb, 0, mac, 12, 0))
			return WIRE_DROP;
	}
	r.back = false;
	r.seq = at;
	r.ack = p->ack;
	return write_reset(skb, p, &r) ? WIRE_DROP : WIRE_PASS;
}

#endif
