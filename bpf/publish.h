/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Original destinations: published before the SYN or datagram leaves, so that
 * the listener finds them when it accepts. */
#ifndef EGRESSD_PUBLISH_H
#define EGRESSD_PUBLISH_H

#include "endpoint.h"

/* States of include/net/tcp_states.h, as sock_ops reports them. */
#define STATE_SYN_SENT 2
#define STATE_CLOSE 7

static __always_inline void account(__u32 workload, __s64 n)
{
	struct egd_usage *u = bpf_map_lookup_elem(&egd_usage, &workload);

	if (u)
		__sync_fetch_and_add(&u->origins, n);
}

/* Takes out what a socket published, unless it is another's by now. */
static __always_inline void withdraw(const struct egd_origin_key *key, const struct egd_socket *st)
{
	struct egd_origin *o = bpf_map_lookup_elem(&egd_origins, key);
	__u32 workload;

	if (!o || o->cookie != st->origin.cookie)
		return;
	workload = o->workload;
	if (!bpf_map_delete_elem(&egd_origins, key))
		account(workload, -1);
}

/* Writes an original destination, on the account of its workload. Within a
 * network namespace the kernel gives an address and port to one socket at a
 * time, so an entry that is there is an old one. Of two namespaces one has an
 * address that is not its own (IPV6_FREEBIND needs no privilege): who was there
 * first stays. Returns why not, or 0. */
static __always_inline __u8 publish(const struct egd_origin_key *key, const struct egd_origin *o)
{
	struct egd_origin *old = bpf_map_lookup_elem(&egd_origins, key);
	__u32 workload;

	if (old) {
		workload = old->workload;
		if (old->netns != o->netns)
			return EGD_R_SOURCE;
		if (workload == o->workload && !bpf_map_update_elem(&egd_origins, key, o, BPF_EXIST))
			return EGD_R_NONE;
		if (workload != o->workload && !bpf_map_delete_elem(&egd_origins, key))
			account(workload, -1);
	}
	if (has_share(o->workload))
		return EGD_R_QUOTA;
	if (bpf_map_update_elem(&egd_origins, key, o, BPF_NOEXIST))
		return EGD_R_MAP_FULL;
	account(o->workload, 1);
	return EGD_R_NONE;
}

/* Who it is by today's numbers: connect() may have been another version's, or
 * long ago. False: nobody's. */
static __always_inline bool by_today(struct egd_socket *st)
{
	struct egd_config *cfg = get_config();
	struct egd_workload *wl;

	if (!cfg)
		return false;
	if (st->epoch == cfg->epoch)
		return true;
	wl = bpf_map_lookup_elem(&egd_workloads, &st->origin.home);
	if (!wl)
		return false;
	st->origin.workload = wl->id;
	st->origin.policy = wl->policy;
	st->origin.mode = wl->mode;
	st->epoch = cfg->epoch;
	return true;
}

static __always_inline void publish_tcp(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct egd_origin_key key = { .proto = IPPROTO_TCP };
	__u32 *w = (__u32 *)key.addr;
	struct egd_socket *st;

	if (!sk)
		return;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (!st)
		return;
	if (st->watched) /* its end is reported */
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	if (!st->redirected)
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
	/* Too late to fail connect(). The SYN stays here, for it might be taken
	 * for whoever is in the table, and user space ends the socket. */
	st->cut = by_today(st) ? publish(&key, &st->origin) : EGD_R_NO_WORKLOAD;
	st->told = 0;
	if (st->cut)
		return;
	st->published[0] = key;
	bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* The end of a connection. A connect() that nobody answered leaves no entry behind. Later states must
 * not delete: a client may have sent and closed before the listener accepts. */
static __always_inline void closed_tcp(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct egd_socket *st;
	struct egd_event *e;

	if (!sk || ctx->args[1] != STATE_CLOSE)
		return;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (!st)
		return;
	forget_dialled(st);
	if (st->watched) {
		/* One that was refused by its first bytes was never open. */
		if (st->cut && st->cut != EGD_R_CHANGED)
			return;
		e = socket_event(st, EGD_E_CLOSE, st->cut);
		if (!e)
			return;
		e->proto = IPPROTO_TCP;
		/* The SYN counts as a byte, and so does an acknowledged FIN. */
		e->sent = ctx->bytes_acked ? ctx->bytes_acked - 1 : 0;
		e->received = ctx->bytes_received;
		bpf_ringbuf_submit(e, no_hurry());
		return;
	}
	if (ctx->args[0] == STATE_SYN_SENT && st->redirected && st->published[0].port)
		withdraw(&st->published[0], st);
}

/* A datagram on a held socket: refused; in audit mode said once. */
static __always_inline int report_held(struct egd_socket *st, __u8 proto)
{
	bool audit = st->origin.mode == EGD_AUDIT;
	struct egd_event *e;

	count(audit ? EGD_C_AUDIT : EGD_R_UDP_HELD);
	if (audit)
		st->held = 0;
	e = socket_event(st, EGD_E_DECISION, EGD_R_UDP_HELD);
	if (!e)
		return audit;
	e->proto = proto;
	e->audit = audit;
	bpf_ringbuf_submit(e, 0);
	return audit;
}

/* A DNS datagram that was dropped, told once for a socket. */
static __always_inline void tell_once(struct egd_socket *st, const struct egd_origin *o, __u8 reason)
{
	struct egd_event *e;

	if (st->strayed)
		return;
	e = socket_event(st, EGD_E_DECISION, reason);
	if (!e)
		return;
	__builtin_memcpy(e->dst, o->dst, 16);
	e->dport = o->dport;
	e->family = o->family;
	e->proto = IPPROTO_UDP;
	bpf_ringbuf_submit(e, 0);
	st->strayed = 1;
}

/* publish_udp: not a datagram to the DNS proxy. */
#define PUBLISH_OTHER 2

/* Datagrams to the DNS proxy: only here is the source address final. Returns 1
 * to pass, 0 to drop (EPERM), or PUBLISH_OTHER. */
static __always_inline int publish_udp(struct __sk_buff *skb, struct egd_socket *st)
{
	struct egd_origin_key key = { .proto = IPPROTO_UDP };
	struct egd_config *cfg;
	struct egd_origin origin;
	__u8 proto = 0, verihl = 0, reason;
	__u16 ports[2] = {};
	__u32 off, slot;
	int i;

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
		return PUBLISH_OTHER;
	cfg = get_config();
	if (!cfg)
		return 0;
	slot = EGD_DNS_SLOTS;
	for (i = 0; i < EGD_DNS_SLOTS; i++)
		if (ports[1] == cfg->dns_port[i])
			slot = i;
	if (slot >= EGD_DNS_SLOTS || !st->dns[slot & (EGD_DNS_SLOTS - 1)].used)
		return PUBLISH_OTHER;
	slot &= EGD_DNS_SLOTS - 1;
	key.port = ports[0];
	key.slot = slot;
	reason = by_today(st) ? EGD_R_NONE : EGD_R_NO_WORKLOAD;
	origin = st->origin;
	__builtin_memcpy(origin.dst, st->dns[slot].addr, 16);
	origin.dport = st->dns[slot].port;
	origin.family = st->dns[slot].family;
	origin.created = bpf_ktime_get_ns();
	if (!reason)
		reason = publish(&key, &origin);
	if (reason) {
		count(reason);
		tell_once(st, &origin, reason);
		return 0;
	}
	st->published[slot] = key;
	return 1;
}

#endif
