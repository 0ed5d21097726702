/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Connections that go straight to their destination, packet by packet: reads
 * the ClientHello of inspected ones, and decides again when the policy has
 * changed. In between a packet costs one lookup of socket storage. */
#ifndef EGRESSD_INSPECT_H
#define EGRESSD_INSPECT_H

#include "hello.h"
#include "publish.h"

static __always_inline __u32 this_ring(void)
{
	struct egd_config *cfg = get_config();

	return cfg ? cfg->ring : 0;
}

/* Reports a connection that is denied now to user space; h may be NULL. 0: the ring is
 * full. */
__noinline int egd_report_blocked(const struct egd_socket *st, const struct packet *p,
				  const struct egd_hello *h, __u8 proto, __u8 reason)
{
	struct egd_event *e;

	if (!st || !p)
		return 0;
	e = socket_event(st, EGD_E_DECISION, proto, reason);
	if (!e)
		return 0;
	e->audit = !st->blocked;
	__builtin_memcpy(e->src, p->src, 16);
	__builtin_memcpy(e->peer, p->to.addr, 16);
	e->sport = p->sport;
	e->peer_port = p->to.port;
	if (h)
		set_name(e, h);
	bpf_ringbuf_submit(e, 0);
	return 1;
}

/* Nothing of this connection leaves any more; user space ends the socket
 * (SOCK_DESTROY), which resets it at both ends. In audit mode it is only said.
 * Returns what the hook returns. */
__noinline int egd_block(struct egd_socket *st, const struct packet *p, const struct egd_hello *h,
			 __u8 proto, __u8 reason)
{
	bool deny;

	if (!st)
		return 0;
	deny = enforced(st->origin.mode, reason);
	if (deny) {
		st->blocked = reason;
	} else {
		/* It is said once, and judged when the mode is enforce. */
		st->verdict = EGD_DIRECT;
		st->unjudged = 1;
	}
	st->reported = egd_report_blocked(st, p, h, proto, reason);
	st->ring = this_ring();
	return !deny;
}

/* A packet of a socket that is blocked. Until user space knows of it nobody ends
 * the socket, and its owner waits in vain: what a full ring lost is reported again,
 * and so is what is in the ring of an older version, which nobody reads. */
__noinline int egd_stay_blocked(struct __sk_buff *skb, struct egd_socket *st)
{
	struct bpf_sock *sk = full_socket(skb);
	struct packet p = {};
	bool tcp;

	if (!sk || !st)
		return 0;
	tcp = sk->protocol == IPPROTO_TCP && egd_read_segment(skb, &p);
	/* The end of the socket is told to the other side, which would wait for
	 * ever: a reset has no data. */
	if (tcp && st->watched && (p.flags & TCP_RST) && p.off == p.end)
		return 1;
	count(st->blocked);
	if (!st->reported || st->ring != this_ring()) {
		if (!tcp)
			__builtin_memset(&p, 0, sizeof(p));
		st->reported = egd_report_blocked(st, &p, bpf_sk_storage_get(&egd_hellos, sk, 0, 0),
						  sk->protocol, st->blocked);
		st->ring = this_ring();
	}
	return 0;
}

/* Whether the name that the hello carries is allowed at the address. The
 * state starts zeroed and the name is written once, so the key is clean. */
static __always_inline bool name_allowed(const struct egd_socket *st, struct egd_hello *h)
{
	h->key.policy = st->origin.policy;
	h->key.port = st->origin.dport;
	__builtin_memcpy(h->key.addr, st->origin.dst, 16);
	return egd_find(&egd_names, &h->key) != NULL;
}

/* Nothing is read any more once it is settled that no other hello comes, and the
 * server has all that was read: then TCP does not send it again. */
static __always_inline int finish_reading(struct bpf_sock *sk, struct egd_socket *st,
					  const struct egd_hello *h)
{
	struct bpf_tcp_sock *tp;

	if (!h->settled)
		return 1;
	tp = bpf_tcp_sock(sk);
	if (tp && (__s32)(tp->snd_una - h->next_seq) >= 0) {
		st->reading = 0;
		bpf_sk_storage_delete(&egd_kept, sk);
	}
	return 1;
}

/* Reads the first hello, and what may be a second one, from *off. Returns an enum
 * egd_reason. */
static __always_inline __u8 read_hellos(struct __sk_buff *skb, struct egd_socket *st,
					struct egd_hello *h, __u32 *off, __u32 end)
{
	__u32 had = h->next_seq - h->base;
	int got = HELLO_SETTLED;

	if (!st->proved) {
		got = read_hello(skb, h, off, end);
		if (got == HELLO_DONE) {
			if (!h->named)
				return EGD_R_NO_NAME;
			if (!name_allowed(st, h))
				return EGD_R_NAME;
			st->proved = 1;
			st->reading = 1;
			count(EGD_C_INSPECT);
			report_allowed(st, h, IPPROTO_TCP);
			expect_second(h);
			got = HELLO_MORE;
		}
	}
	if (st->proved && (*off < end || got == HELLO_SETTLED))
		got = read_second(skb, h, had, off, end);
	switch (got) {
	case HELLO_SETTLED:
		h->settled = 1;
		return EGD_R_NONE;
	case HELLO_MORE:
		return EGD_R_NONE;
	case HELLO_NOT_TLS:
		return EGD_R_NOT_TLS;
	case HELLO_OTHER_NAME:
		return EGD_R_NAME;
	}
	return EGD_R_MALFORMED;
}

/* Reads what a segment adds to the hello, and compares what is sent again with
 * what was read: a file that is sent without a copy (sendfile, MSG_ZEROCOPY) may
 * have other bytes by then. */
static __always_inline int inspect(struct __sk_buff *skb, struct bpf_sock *sk,
				   struct egd_socket *st, struct packet *p)
{
	__u32 seq = payload_seq(p), at, had, start = p->off, off;
	struct egd_kept *kept;
	struct egd_hello *h;
	__u8 bad;

	h = bpf_sk_storage_get(&egd_hellos, sk, 0, 0);
	if (!h)
		return egd_block(st, p, h, IPPROTO_TCP, EGD_R_STORAGE);
	if (p->off == p->end) /* no payload: handshake, acknowledgement, end */
		return finish_reading(sk, st, h);
	if (!h->synced) {
		h->synced = 1;
		h->next_seq = seq;
		h->base = seq;
	}
	at = seq - h->base;
	had = h->next_seq - h->base;
	if (h->settled && (__s32)(seq - h->next_seq) >= 0)
		return finish_reading(sk, st, h);
	/* An urgent byte (MSG_OOB) is taken out of the stream that the server
	 * reads, so the server would read another hello than this one. */
	if (p->flags & TCP_URG)
		return egd_block(st, p, h, IPPROTO_TCP, EGD_R_MALFORMED);
	if ((__s32)at < 0 || (__s32)(seq - h->next_seq) > 0)
		return 0; /* a gap: what fills it comes first */
	kept = bpf_sk_storage_get(&egd_kept, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept)
		return egd_block(st, p, h, IPPROTO_TCP, EGD_R_STORAGE);
	if (at < had) {
		start = p->off + (had - at);
		if (start > p->end)
			start = p->end;
		/* What is beyond the kept bytes is not known, so it is not sent again. */
		if (!egd_same_bytes(skb, kept, at, p->off, start))
			return egd_block(st, p, h, IPPROTO_TCP, EGD_R_SEQUENCE);
		if (start == p->end || h->settled)
			return finish_reading(sk, st, h);
	}
	off = start;
	bad = read_hellos(skb, st, h, &off, p->end);
	if (bad)
		return egd_block(st, p, h, IPPROTO_TCP, bad);
	egd_keep_bytes(skb, kept, had, start, off);
	h->next_seq = h->base + had + (off - start);
	return finish_reading(sk, st, h);
}

/* Whether the connection's peer is one that the tables send it to today. */
static __always_inline bool still_endpoint(const struct egd_socket *st,
					   const struct egd_addr_val *v)
{
	struct egd_endpoint peer = { .port = st->peer_port };
	struct flow f = { .port = st->origin.dport };

	if (!v->slots)
		return !st->rewritten;
	__builtin_memcpy(peer.addr, st->peer, 16);
	__builtin_memcpy(f.addr, st->origin.dst, 16);
	return egd_is_member(v->set, &peer, &f);
}

/* The policy has changed since the verdict: ask the tables again. The workload
 * may have another policy by now; when it is none any more, that of the cgroups
 * around it counts. */
static __always_inline bool still_allowed(struct __sk_buff *skb, struct bpf_sock *sk,
					  struct egd_socket *st)
{
	struct egd_workload *wl;
	struct egd_addr_val v;
	struct egd_hello *h;
	struct flow f = {
		.port = st->origin.dport,
		.family = st->origin.family,
		.proto = IPPROTO_TCP,
	};

	__builtin_memcpy(f.addr, st->origin.dst, 16);
	if (sk->protocol == IPPROTO_UDP)
		f.proto = IPPROTO_UDP;
	wl = bpf_map_lookup_elem(&egd_workloads, &st->origin.home);
	if (!wl)
		wl = find_around(skb);
	if (!wl)
		return false;
	st->origin.policy = wl->policy;
	st->origin.mode = wl->mode;
	if ((wl->flags & EGD_WL_EXEMPT) || wl->mode == EGD_OFF)
		return true;
	if (wl->mode == EGD_AUDIT && st->unjudged)
		return true; /* connect() said so */
	v = workload_verdict(&f, wl);
	if (v.verdict == EGD_DIRECT || st->verdict == EGD_INSPECT)
		st->unjudged = 0;
	/* What must pass the proxy now does not go on without it, unless that is
	 * because two rules meet at the address, one of which lets it go straight. */
	if (v.verdict == EGD_PROXY)
		return v.straight && st->verdict == EGD_DIRECT;
	if (!still_endpoint(st, &v))
		return false;
	switch (v.verdict) {
	case EGD_DIRECT:
		return true;
	case EGD_INSPECT:
		if (st->verdict == EGD_INSPECT && !st->proved)
			return true; /* the hello will be judged by the new names */
		h = bpf_sk_storage_get(&egd_hellos, sk, 0, 0);
		return h && st->proved && name_allowed(st, h);
	}
	return false;
}

/* Tells what the first bytes of a connection are that nobody judged, and how much the
 * server had said before: a policy that is learned needs to know the protocol. Nothing
 * is dropped for it, so only the first segment is read. */
static __always_inline void tell_first(struct __sk_buff *skb, struct bpf_sock *sk,
				       struct egd_socket *st, const struct packet *p)
{
	__u32 off = p->off, len;
	struct bpf_tcp_sock *tp;
	struct egd_hello *h;
	struct egd_event *e;
	int got;

	st->unread = 0;
	if (!may_report(st->origin.workload))
		return;
	h = bpf_sk_storage_get(&egd_hellos, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!h)
		return;
	__builtin_memset(h, 0, sizeof(*h));
	h->need = 1;
	got = read_hello(skb, h, &off, p->end);
	e = socket_event(st, EGD_E_FIRST, IPPROTO_TCP, EGD_R_NO_RULE);
	if (!e)
		return;
	e->audit = 1;
	tp = bpf_tcp_sock(sk);
	if (tp)
		e->received = tp->bytes_received;
	if (got == HELLO_MORE) {
		e->hello = EGD_FIRST_PART;
	} else if (got == HELLO_DONE) {
		e->hello = EGD_FIRST_HELLO;
		if (h->named)
			set_name(e, h);
	} else {
		len = step_of(p->end - p->off);
		e->name_len = len;
		bpf_skb_load_bytes(skb, p->off, e->name, len);
	}
	bpf_sk_storage_delete(&egd_hellos, sk);
	bpf_ringbuf_submit(e, wakeup_flags());
}

/* A segment of a connection that is read, or was decided about by another policy.
 * Returns 1 to pass, 0 to drop. */
__noinline int egd_judge_segment(struct __sk_buff *skb)
{
	struct egd_config *cfg = get_config();
	struct bpf_sock *sk = full_socket(skb);
	struct packet p = {};
	struct egd_socket *st;

	if (!cfg || !sk)
		return 0;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (!st)
		return 0;
	if (!egd_read_segment(skb, &p))
		return egd_block(st, &p, NULL, IPPROTO_TCP, EGD_R_MALFORMED);
	if (st->epoch != cfg->epoch) {
		if (!still_allowed(skb, sk, st))
			return egd_block(st, &p, NULL, IPPROTO_TCP, EGD_R_CHANGED);
		st->epoch = cfg->epoch;
	}
	if (st->verdict == EGD_INSPECT && (!st->proved || st->reading))
		return inspect(skb, sk, st, &p);
	if (st->unread && p.off < p.end)
		tell_first(skb, sk, st, &p);
	return 1;
}

/* Returns 1 to pass, 0 to drop. Most packets need not be read. */
static __always_inline int check_watched(struct __sk_buff *skb, const struct egd_socket *st,
					 const struct egd_config *cfg)
{
	if (st->epoch == cfg->epoch && !st->unread &&
	    (st->verdict != EGD_INSPECT || (st->proved && !st->reading)))
		return 1;
	return egd_judge_segment(skb) != 0;
}

#endif
