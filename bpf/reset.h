/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What becomes of a frame, and the resets that answer one. */
#ifndef EGRESSD_RESET_H
#define EGRESSD_RESET_H

#include "packet.h"

/* What a TC program returns. The next program, or the stack: never
 * TC_ACT_OK, behind which programs of others would not be asked. */
#define TC_PASS (-1) /* TC_ACT_UNSPEC, TCX_NEXT */
#define TC_DROP 2    /* TC_ACT_SHOT */
/* What a decision comes to besides; done where the stack has room for it. */
#define TC_ASSIGN 100 /* give it to one of egressd's sockets */
#define TC_REFUSE 101 /* answer it with a reset */
#define TC_RESET 102  /* reset both ends */

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
static __always_inline __u16 tcp_sum(const struct packet *p, struct tcp_header *tcp, bool whole)
{
	struct {
		__u8 src[16], dst[16];
		__u32 len, proto;
	} pseudo = { .len = bpf_htonl(sizeof(*tcp)), .proto = bpf_htonl(IPPROTO_TCP) };
	__s64 sum;

	/* The 0xffff in two mapped addresses adds nothing. */
	__builtin_memcpy(pseudo.src, p->src, 16);
	__builtin_memcpy(pseudo.dst, p->to.addr, 16);
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
	const __u32 *src = (const __u32 *)p->src, *dst = (const __u32 *)p->to.addr;
	struct iphdr ip = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(ip) + sizeof(struct tcp_header)),
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
		.payload_len = bpf_htons(sizeof(struct tcp_header)),
		.nexthdr = IPPROTO_TCP,
		.hop_limit = 64,
	};

	__builtin_memcpy(&ip.saddr, back ? p->to.addr : p->src, 16);
	__builtin_memcpy(&ip.daddr, back ? p->src : p->to.addr, 16);
	return bpf_skb_store_bytes(skb, p->l2, &ip, sizeof(ip), BPF_F_RECOMPUTE_CSUM);
}

/* Makes the packet a reset of its connection. p stays what the packet was. */
static __noinline long write_reset(struct __sk_buff *skb, const struct packet *p,
				   const struct reset *r)
{
	struct tcp_header tcp = {};
	__u32 tcp_at;
	__u8 mac[12];

	if (!p || !r)
		return -1;
	tcp_at = p->l2 + (p->to.family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));
	if (bpf_skb_change_tail(skb, tcp_at + sizeof(tcp), 0))
		return -1;
	if (p->l2 && r->back) {
		if (bpf_skb_load_bytes(skb, 0, mac + 6, 6) || bpf_skb_load_bytes(skb, 6, mac, 6) ||
		    bpf_skb_store_bytes(skb, 0, mac, 12, 0))
			return -1;
	}
	if (p->to.family == AF_INET ? write_ip4(skb, p, r->back) : write_ip6(skb, p, r->back))
		return -1;
	tcp.source = r->back ? p->to.port : p->sport;
	tcp.dest = r->back ? p->sport : p->to.port;
	tcp.seq = bpf_htonl(r->seq);
	tcp.ack = bpf_htonl(r->ack);
	tcp.length = sizeof(tcp) / 4 << 4;
	tcp.flags = r->flags;
	tcp.sum = tcp_sum(p, &tcp, !sum_is_partial(skb, tcp_at + offsetof(struct tcp_header, sum)));
	return bpf_skb_store_bytes(skb, tcp_at, &tcp, sizeof(tcp), BPF_F_RECOMPUTE_CSUM);
}

/* How many sequence numbers a segment takes. */
static __always_inline __u32 seq_len(const struct packet *p)
{
	return p->end - p->off + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
}

/* Answers a packet that came in with a reset, which leaves by the interface
 * that it came by. A reset is never answered (RFC 9293 section 3.10.7). */
static __noinline int refuse_packet(struct __sk_buff *skb, const struct packet *p)
{
	struct reset r = { .back = true, .flags = TCP_RST | TCP_ACK };

	if (!p || p->to.proto != IPPROTO_TCP || !p->parsed || (p->flags & TCP_RST))
		return TC_DROP;
	r.ack = p->seq + seq_len(p);
	if (p->flags & TCP_ACK)
		r.seq = p->ack;
	if (write_reset(skb, p, &r))
		return TC_DROP;
	return bpf_redirect(skb->ifindex, 0);
}

/* Resets both ends of an open connection: a copy of the packet becomes the
 * reset that goes back, the packet itself the one that goes on. at is the
 * number that the server expects next. */
static __noinline int reset_both(struct __sk_buff *skb, const struct packet *p, __u32 at)
{
	struct reset r = { .back = true, .flags = TCP_RST | TCP_ACK };

	if (!p || p->to.proto != IPPROTO_TCP || (p->flags & TCP_RST))
		return TC_DROP;
	r.seq = p->ack;
	r.ack = p->seq + seq_len(p);
	if (write_reset(skb, p, &r) || bpf_clone_redirect(skb, skb->ifindex, 0))
		return TC_DROP;
	if (p->l2) { /* the way back was written into the frame */
		__u8 mac[12];

		if (bpf_skb_load_bytes(skb, 0, mac + 6, 6) || bpf_skb_load_bytes(skb, 6, mac, 6) ||
		    bpf_skb_store_bytes(skb, 0, mac, 12, 0))
			return TC_DROP;
	}
	r.back = false;
	r.seq = at;
	r.ack = p->ack;
	return write_reset(skb, p, &r) ? TC_DROP : TC_PASS;
}

#endif
