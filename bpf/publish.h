/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Original destinations: published before the SYN or datagram leaves, so that
 * the listener finds them when it accepts. */
#ifndef EGRESSD_PUBLISH_H
#define EGRESSD_PUBLISH_H

#include "common.h"

/* States of include/net/tcp_states.h, as sock_ops reports them. */
#define STATE_SYN_SENT 2
#define STATE_CLOSE 7

static __always_inline void publish_tcp(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct egd_origin_key key = { .proto = IPPROTO_TCP };
	__u32 *w = (__u32 *)key.addr;
	struct egd_socket *st;

	if (!sk)
		return;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (!st || !st->redirected)
		return;
	key.port = bpf_htons((__u16)ctx->local_port);
	if (is_mapped(st->origin.dst)) {
		set_mapped(key.addr, ctx->local_ip4);
	} else {
		w[0] = ctx->local_ip6[0];
		w[1] = ctx->local_ip6[1];
		w[2] = ctx->local_ip6[2];
		w[3] = ctx->local_ip6[3];
	}
	/* Too late to fail connect(): without the entry the listener refuses. */
	if (bpf_map_update_elem(&egd_origins, &key, &st->origin, BPF_ANY)) {
		count(EGD_R_MAP_FULL);
		return;
	}
	st->published[0] = key;
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* A connect() that nobody answered leaves no entry behind. Later states must
 * not delete: a client may have sent and closed before the listener accepts. */
static __always_inline void unpublish_tcp(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct egd_socket *st;

	if (!sk || ctx->args[0] != STATE_SYN_SENT || ctx->args[1] != STATE_CLOSE)
		return;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (st && st->redirected && st->published[0].port)
		bpf_map_delete_elem(&egd_origins, &st->published[0]);
}

static __always_inline int report_held(const struct egd_socket *st, __u8 proto)
{
	struct egd_event *e;

	count(EGD_R_UDP_HELD);
	e = bpf_ringbuf_reserve(&egd_events, sizeof(*e), 0);
	if (!e) {
		count(EGD_C_EVENT_LOST);
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->cgroup = st->origin.cgroup;
	__builtin_memcpy(e->dst, st->origin.dst, 16);
	e->dport = st->origin.dport;
	e->family = st->origin.family;
	e->proto = proto;
	e->reason = EGD_R_UDP_HELD;
	e->workload = st->origin.workload;
	e->policy = st->origin.policy;
	e->pid = st->origin.pid;
	e->uid = st->origin.uid;
	__builtin_memcpy(e->comm, st->origin.comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* Datagrams to the DNS proxy: only here is the source address final. Also
 * refuses what a held UDP socket sends. Returns 1 to pass, 0 to drop (EPERM). */
static __always_inline int publish_udp(struct __sk_buff *skb)
{
	struct egd_origin_key key = { .proto = IPPROTO_UDP };
	struct bpf_sock *sk = skb->sk;
	struct egd_config *cfg;
	struct egd_socket *st;
	struct egd_origin origin;
	__u8 proto = 0, verihl = 0;
	__u16 ports[2] = {};
	__u32 off, slot;
	int i;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (!st)
		return 1;
	if (st->held)
		return report_held(st, IPPROTO_UDP);
	if (sk->protocol != IPPROTO_UDP || st->verdict != EGD_PROXY)
		return 1;

	if (skb->protocol == bpf_htons(0x0800)) {
		__u32 saddr;

		if (bpf_skb_load_bytes(skb, 0, &verihl, 1) ||
		    bpf_skb_load_bytes(skb, 9, &proto, 1) ||
		    bpf_skb_load_bytes(skb, 12, &saddr, 4))
			return 0;
		off = (verihl & 0xf) * 4;
		set_mapped(key.addr, saddr);
	} else {
		if (bpf_skb_load_bytes(skb, 6, &proto, 1) ||
		    bpf_skb_load_bytes(skb, 8, key.addr, 16))
			return 0;
		off = 40;
	}
	/* Extension headers or a fragment: the listener will not know the
	 * datagram and refuses it. */
	if (proto != IPPROTO_UDP || bpf_skb_load_bytes(skb, off, ports, 4))
		return 1;
	cfg = get_config();
	if (!cfg)
		return 0;
	slot = EGD_DNS_SLOTS;
	for (i = 0; i < EGD_DNS_SLOTS; i++)
		if (ports[1] == cfg->dns_port[i])
			slot = i;
	if (slot >= EGD_DNS_SLOTS || !st->dns[slot & (EGD_DNS_SLOTS - 1)].used)
		return 1;
	slot &= EGD_DNS_SLOTS - 1;
	key.port = ports[0];
	key.slot = slot;
	origin = st->origin;
	__builtin_memcpy(origin.dst, st->dns[slot].addr, 16);
	origin.dport = st->dns[slot].port;
	origin.family = st->dns[slot].family;
	origin.created = bpf_ktime_get_ns();
	if (bpf_map_update_elem(&egd_origins, &key, &origin, BPF_ANY)) {
		count(EGD_R_MAP_FULL);
		return 0;
	}
	st->published[slot] = key;
	return 1;
}

#endif
