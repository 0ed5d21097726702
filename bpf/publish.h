/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Original destinations: published before the SYN or datagram leaves, so that
 * the listener finds them when it accepts. */
#ifndef EGRESSD_PUBLISH_H
#define EGRESSD_PUBLISH_H

#include "datagram.h"

/* States of include/net/tcp_states.h, as sock_ops reports them. */
#define STATE_SYN_SENT 2
#define STATE_CLOSE 7
#define STATE_LISTEN 10

/* Adds to a workload's account of egd_origins. It never goes below zero: what a
 * version that did not count wrote is taken off all the same. */
static __always_inline void account(__u32 workload, __s64 n)
{
	struct egd_usage *u = bpf_map_lookup_elem(&egd_usage, &workload);

	if (u && (n > 0 || u->origins > 0))
		__sync_fetch_and_add(&u->origins, n);
}

/* What a socket published under a slot. */
static __always_inline void published_key(struct egd_origin_key *key, const struct egd_socket *st,
					  __u32 slot)
{
	slot &= EGD_DNS_SLOTS - 1;
	__builtin_memset(key, 0, sizeof(*key));
	__builtin_memcpy(key, &st->published[slot], sizeof(st->published[0]));
	key->token = st->token[slot];
	key->way = st->by_gate ? EGD_BY_GATE : EGD_BY_LOOPBACK;
}

static __always_inline void note_published(struct egd_socket *st, const struct egd_origin_key *key,
					   __u32 slot)
{
	slot &= EGD_DNS_SLOTS - 1;
	__builtin_memcpy(&st->published[slot], key, sizeof(st->published[0]));
	st->token[slot] = key->token;
	st->by_gate = key->way == EGD_BY_GATE;
}

/* Takes out what a socket published, unless it is another's by now. */
static __always_inline void unpublish(const struct egd_socket *st, __u32 slot)
{
	struct egd_origin_key key;
	struct egd_origin *o;
	__u32 workload;

	published_key(&key, st, slot);
	o = bpf_map_lookup_elem(&egd_origins, &key);
	if (!o || o->cookie != st->origin.cookie)
		return;
	workload = o->workload;
	if (!bpf_map_delete_elem(&egd_origins, &key))
		account(workload, -1);
}

/* The interface that a flow came by; 0: from a socket here. */
static __always_inline __u32 interface_of(const struct egd_origin *o)
{
	return o->cookie ? 0 : o->ifindex;
}

/* Writes an original destination, on the account of its workload. An entry that
 * is there is an old one of the same socket's address, unless it is somebody
 * else's who guessed the token: then it stays. Returns why not, or 0. */
static __always_inline __u8 publish(const struct egd_origin_key *key, const struct egd_origin *o)
{
	struct egd_origin *old = bpf_map_lookup_elem(&egd_origins, key);
	__u32 workload;

	if (old) {
		workload = old->workload;
		if (old->netns != o->netns || interface_of(old) != interface_of(o))
			return EGD_R_SOURCE;
		if (workload == o->workload &&
		    !bpf_map_update_elem(&egd_origins, key, o, BPF_EXIST))
			return EGD_R_NONE;
		if (workload != o->workload && !bpf_map_delete_elem(&egd_origins, key))
			account(workload, -1);
	}
	if (over_quota(o->workload))
		return EGD_R_QUOTA;
	if (bpf_map_update_elem(&egd_origins, key, o, BPF_NOEXIST))
		return EGD_R_MAP_FULL;
	account(o->workload, 1);
	return EGD_R_NONE;
}

/* Brings the ids of the workload in the socket's storage up to date: connect() may
 * have been another version's, or long ago. False: it is no workload any more. */
static __always_inline bool refresh_ids(struct egd_socket *st)
{
	struct egd_config *cfg = get_config();
	struct egd_workload *wl;
	__u64 home;

	if (!cfg)
		return false;
	if (st->epoch == cfg->epoch)
		return true;
	home = st->origin.home; /* what an argument points to is no key before Linux 6.2 */
	wl = bpf_map_lookup_elem(&egd_workloads, &home);
	if (!wl)
		return false;
	st->origin.workload = wl->id;
	st->origin.policy = wl->policy;
	st->origin.mode = wl->mode;
	st->epoch = cfg->epoch;
	return true;
}

/* Adds to a workload's account of open connections, and to that of all. */
static __always_inline void account_conn(__u32 workload, __s64 n)
{
	__u32 all = 0;
	struct egd_usage *u = bpf_map_lookup_elem(&egd_usage, &workload);
	struct egd_usage *sum = bpf_map_lookup_elem(&egd_usage, &all);

	if (u)
		__sync_fetch_and_add(&u->conns, n);
	if (sum)
		__sync_fetch_and_add(&sum->conns, n);
}

/* A connection that connect() redirected has its port now, until its socket is
 * closed on both sides, or reset. */
static __always_inline void count_conn(struct egd_socket *st)
{
	struct egd_config *cfg = get_config();

	if (!cfg || st->origin.netns != cfg->netns_cookie ||
	    (st->counted && st->accounts == cfg->accounts))
		return;
	st->counted = st->origin.workload;
	st->accounts = cfg->accounts;
	account_conn(st->counted, 1);
}

/* The end of what count_conn began, unless that was in another table. */
static __always_inline void uncount_conn(struct egd_socket *st)
{
	struct egd_config *cfg = get_config();

	if (st->counted && cfg && st->accounts == cfg->accounts)
		account_conn(st->counted, -1);
	st->counted = 0;
}

/* An active open: its end is to be seen. */
static __always_inline void on_tcp_connect(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct egd_socket *st;

	if (!sk)
		return;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (st && (st->watched || st->redirected))
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	if (!st || !st->redirected)
		return;
	st->published[0].port = 0; /* of an earlier connection */
	count_conn(st);
}

/* Tells the listeners apart at which connections from one address and port may
 * arrive: the kernel gives those to several sockets at once that go to different
 * places, and so may bind() with SO_REUSEADDR. addr has 16 bytes; port is in
 * network order. listenerToken in loader is the same. */
static __always_inline __u32 listener_token(const __u8 *addr, __u16 port)
{
	const __u32 *words = (const __u32 *)addr;
	__u32 hash = 0x811c9dc5;
	int i;

	for (i = 0; i < 4; i++)
		hash = (hash ^ bpf_ntohl(words[i])) * 0x01000193;
	return (hash ^ bpf_ntohs(port)) * 0x01000193;
}

/* The SYN of a connection that connect() redirected; its source is final here.
 * What cannot be published must not leave, for it might be taken for whoever is in
 * the table: skb_egress cuts the socket, and user space ends it, for connect() is
 * past failing. Returns an enum egd_reason. */
static __always_inline __u8 publish_tcp(struct egd_socket *st, const struct packet *p)
{
	struct egd_origin_key key = { .proto = IPPROTO_TCP, .port = p->sport };
	struct egd_config *cfg = get_config();
	__u8 reason;

	if (!cfg || !refresh_ids(st))
		return cfg ? EGD_R_NO_WORKLOAD : EGD_R_NO_CONFIG;
	__builtin_memcpy(key.addr, p->src, 16);
	if (st->origin.netns != cfg->netns_cookie) {
		key.way = EGD_BY_GATE;
		key.token = p->seq;
	} else {
		key.token = listener_token(p->to.addr, p->to.port);
	}
	reason = publish(&key, &st->origin);
	if (reason == EGD_R_NONE)
		note_published(st, &key, 0);
	return reason;
}

/* The end of a connection. A connect() that nobody answered leaves no entry behind.
 * Later states must not delete: a client may have sent and closed before the listener
 * accepts. */
static __always_inline void on_tcp_close(struct bpf_sock_ops *ctx)
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
	uncount_conn(st);
	if (st->watched) {
		/* One that was refused by its first bytes was never open, and one
		 * that nobody judged was never reported. */
		if ((st->blocked && st->blocked != EGD_R_CHANGED) || (st->unjudged && !st->blocked))
			return;
		e = socket_event(st, EGD_E_CLOSE, IPPROTO_TCP, st->blocked);
		if (!e)
			return;
		/* The SYN counts as a byte, and so does an acknowledged FIN. */
		e->sent = ctx->bytes_acked ? ctx->bytes_acked - 1 : 0;
		e->received = ctx->bytes_received;
		bpf_ringbuf_submit(e, wakeup_flags());
		return;
	}
	if (ctx->args[0] == STATE_SYN_SENT && st->redirected && st->published[0].port)
		unpublish(st, 0);
}

/* A datagram on a socket that is blocked for UDP: refused; in audit mode reported
 * once. */
static __always_inline int report_udp_blocked(struct egd_socket *st)
{
	bool deny = enforced(st->origin.mode, EGD_R_TRANSPORT);
	struct egd_event *e;

	if (!deny)
		st->udp_blocked = 0;
	e = socket_event(st, EGD_E_DECISION, IPPROTO_UDP, EGD_R_TRANSPORT);
	if (!e)
		return !deny;
	e->audit = !deny;
	bpf_ringbuf_submit(e, 0);
	return !deny;
}

/* A DNS datagram that was dropped, reported once for a socket, with the server that it
 * was for. */
static __always_inline void report_drop(struct egd_socket *st, const struct egd_dst *server,
					__u8 reason)
{
	struct egd_event *e;

	count(reason);
	if (st->drop_reported)
		return;
	e = socket_event(st, EGD_E_DECISION, IPPROTO_UDP, reason);
	if (!e)
		return;
	set_target(e, server->addr, server->port, server->family);
	bpf_ringbuf_submit(e, 0);
	st->drop_reported = 1;
}

/* The slot of a port of the DNS proxy; EGD_DNS_SLOTS: it is none. */
__noinline __u32 egd_slot_of(__u16 port)
{
	struct egd_config *cfg = get_config();
	__u32 slot = EGD_DNS_SLOTS;
	int i;

	if (!cfg)
		return slot;
	for (i = 0; i < EGD_DNS_SLOTS; i++)
		slot = port == cfg->dns_port[i] ? i : slot;
	return slot;
}

/* The token of a datagram: its first four bytes, or 0. */
static __always_inline __u32 question_token(struct __sk_buff *skb, __u32 payload)
{
	__u32 token = 0;

	if (bpf_skb_load_bytes(skb, payload, &token, 4))
		return 0;
	return bpf_ntohl(token);
}

/* A datagram to the DNS proxy: only here is the source address final. Returns 1
 * to pass, 0 to drop (EPERM). */
__noinline int egd_publish_udp(struct __sk_buff *skb, struct egd_socket *st, const struct packet *p,
			       __u32 slot)
{
	struct egd_origin_key key = { .proto = IPPROTO_UDP };
	struct egd_config *cfg = get_config();
	struct egd_origin origin;
	__u8 reason;
	bool gate;

	if (!st || !p || !cfg)
		return 0;
	gate = is_gate(cfg, &p->to);
	key.port = p->sport;
	slot &= EGD_DNS_SLOTS - 1;
	__builtin_memcpy(key.addr, p->src, 16);
	key.slot = slot;
	if (gate) {
		key.way = EGD_BY_GATE;
		key.token = question_token(skb, p->off);
	}
	reason = refresh_ids(st) ? EGD_R_NONE : EGD_R_NO_WORKLOAD;
	/* The node's loopback is not what another namespace has by that name. */
	if (!reason && !gate && st->origin.netns != cfg->netns_cookie)
		reason = EGD_R_SOURCE;
	origin = st->origin;
	copy_addr(origin.dst, st->dns[slot].addr);
	origin.dport = st->dns[slot].port;
	origin.family = st->dns[slot].family;
	origin.created = bpf_ktime_get_ns();
	if (!reason && !is_listening(listener_key(&p->to, gate, EGD_L_DNS_UDP + slot)))
		reason = EGD_R_LISTENER;
	if (!reason)
		reason = publish(&key, &origin);
	if (reason) {
		report_drop(st, &st->dns[slot], reason);
		return 0;
	}
	note_published(st, &key, slot);
	return 1;
}

#endif
