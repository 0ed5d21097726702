/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flows of interfaces that egressd's own sockets serve: the packets are given
 * to them as they are. */
#ifndef EGRESSD_ASSIGN_H
#define EGRESSD_ASSIGN_H

#include "flows.h"
#include "publish.h"

/* Returns the size of the tuple. */
static __always_inline __u32 tuple_of(const struct packet *p, struct bpf_sock_tuple *t)
{
	const __u32 *src = (const __u32 *)p->src, *dst = (const __u32 *)p->to.addr;

	if (p->to.family == AF_INET) {
		t->ipv4.saddr = src[3];
		t->ipv4.daddr = dst[3];
		t->ipv4.sport = p->sport;
		t->ipv4.dport = p->to.port;
		return sizeof(t->ipv4);
	}
	__builtin_memcpy(t->ipv6.saddr, p->src, 16);
	__builtin_memcpy(t->ipv6.daddr, p->to.addr, 16);
	t->ipv6.sport = p->sport;
	t->ipv6.dport = p->to.port;
	return sizeof(t->ipv6);
}

/* Whom the listener will find behind the packet. Returns an enum egd_reason. */
static __always_inline __u8 publish_packet(struct __sk_buff *skb, const struct pkt_ctx *w,
					   const struct egd_iface *in)
{
	struct egd_origin_key key = {
		.port = w->p.sport,
		.proto = w->p.to.proto,
		.way = EGD_BY_INTERFACE,
		.token = w->p.seq,
	};
	struct egd_origin o = {
		.created = w->now,
		.dport = w->p.to.port,
		.family = w->p.to.family,
		.mode = in->mode,
		.workload = in->workload,
		.policy = in->policy,
		.ifindex = w->key.ifindex,
	};

	if (w->p.to.proto == IPPROTO_UDP)
		key.token = question_token(skb, w->p.off);
	__builtin_memcpy(key.addr, w->p.src, 16);
	__builtin_memcpy(o.dst, w->p.to.addr, 16);
	return publish(&key, &o);
}

/* Gives the packet to one of egressd's sockets without changing it; the mark
 * makes the stack take it for local (ip rule, see loader). Returns an enum
 * egd_reason. */
static __noinline int assign_listener(struct __sk_buff *skb, const struct pkt_ctx *w,
				      const struct egd_iface *in, const struct egd_config *cfg)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	__u32 size, key;
	__u8 reason;
	long failed;

	if (!w || !in || !cfg)
		return EGD_R_NO_CONFIG;
	if (w->p.to.proto == IPPROTO_TCP) {
		size = tuple_of(&w->p, &t);
		sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
		if (sk) {
			if (sk->state != STATE_LISTEN)
				goto assign;
			bpf_sk_release(sk); /* of somebody who listens on all addresses */
		}
		if ((w->p.flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
			return EGD_R_NO_STATE;
	}
	reason = publish_packet(skb, w, in);
	if (reason)
		return reason;
	key = w->p.to.port == PORT_DNS ? EGD_L_DNS_TCP : EGD_L_PROXY;
	if (w->p.to.proto == IPPROTO_UDP)
		key = EGD_L_DNS_UDP;
	key = listener_key(&w->p.to, false, key);
	sk = bpf_map_lookup_elem(&egd_listeners, &key);
	if (!sk)
		return EGD_R_LISTENER;
assign:
	failed = bpf_sk_assign(skb, sk, 0);
	bpf_sk_release(sk);
	if (failed)
		return EGD_R_LISTENER;
	skb->mark = EGD_MARK;
	return EGD_R_NONE;
}

#endif
