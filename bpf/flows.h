/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Flows of interfaces, whose sockets are not in this kernel: the table, and
 * the ClientHello that is read from their packets. */
#ifndef EGRESSD_FLOWS_H
#define EGRESSD_FLOWS_H

#include "hello.h"
#include "reset.h"

/* One packet and what is known of it. */
struct pkt_ctx {
	struct packet p;
	struct egd_flow_key key;
	__u64 now;
	__u32 reset_seq; /* TC_RESET: the sequence number that the server expects */
};

static __always_inline void set_key(struct pkt_ctx *w, __u32 ifindex, bool outward)
{
	const struct packet *p = &w->p;
	struct egd_flow_key *k = &w->key;

	k->ifindex = ifindex;
	k->proto = p->to.proto;
	k->sport = outward ? p->sport : p->to.port;
	k->dport = outward ? p->to.port : p->sport;
	__builtin_memcpy(k->src, outward ? p->src : p->to.addr, 16);
	__builtin_memcpy(k->dst, outward ? p->to.addr : p->src, 16);
}

/* Puts a flow into the table, over one with the same addresses that is over.
 * Returns an enum egd_reason. Strangers who open connections to the workload
 * can use up half of its share, so that it goes on having its own. */
static __always_inline __u8 add_flow(const struct egd_flow_key *k, const struct egd_iface *in,
				     const struct egd_flow *f)
{
	__u32 share = f->flags & EGD_F_INBOUND ? in->share / 2 : in->share;
	struct egd_share *used;

	if (!bpf_map_lookup_elem(&egd_flows, k)) {
		used = bpf_map_lookup_elem(&egd_shares, &k->ifindex);
		if (!used || used->flows >= share)
			return EGD_R_QUOTA;
		__sync_fetch_and_add(&used->flows, 1);
	}
	return bpf_map_update_elem(&egd_flows, k, f, BPF_ANY) ? EGD_R_MAP_FULL : EGD_R_NONE;
}

/* State for the hello of a flow that begins. Returns an enum egd_reason. */
static __always_inline __u8 expect_hello(const struct egd_flow_key *k)
{
	struct egd_share *used;

	if (!bpf_map_lookup_elem(&egd_flow_bytes, k)) {
		used = bpf_map_lookup_elem(&egd_shares, &k->ifindex);
		if (!used || used->hellos >= EGD_MAX_HELLOS)
			return EGD_R_QUOTA;
		__sync_fetch_and_add(&used->hellos, 1);
	}
	return bpf_map_update_elem(&egd_flow_bytes, k, egd_no_bytes, BPF_ANY) ||
			       bpf_map_update_elem(&egd_flow_hello, k, &egd_no_hello, BPF_ANY) ?
		       EGD_R_MAP_FULL :
		       EGD_R_NONE;
}

/* Nobody needs the bytes of the hello any more. */
static __always_inline void forget_bytes(const struct egd_flow_key *k)
{
	struct egd_share *used;

	if (bpf_map_delete_elem(&egd_flow_bytes, k))
		return;
	used = bpf_map_lookup_elem(&egd_shares, &k->ifindex);
	if (used && used->hellos)
		__sync_fetch_and_add(&used->hellos, -1);
}

/* Reports a decision about a flow, or about a packet that has none. */
static __always_inline void report_packet(const struct pkt_ctx *w, const struct egd_iface *in,
					  const struct egd_hello *h, __u8 reason, __u8 verdict,
					  bool audit)
{
	struct egd_event *e = new_event(EGD_E_DECISION, verdict, reason);

	if (!e)
		return;
	e->ifindex = w->key.ifindex;
	__builtin_memcpy(e->src, w->p.src, 16);
	e->sport = w->p.sport;
	set_target(e, w->p.to.addr, w->p.to.port, w->p.to.family);
	set_workload(e, in->workload, in->policy);
	e->proto = w->p.to.proto;
	e->audit = audit;
	if (h)
		set_name(e, h);
	bpf_ringbuf_submit(e, reason == EGD_R_NONE ? wakeup_flags() : 0);
}

/* A packet is denied: counts and reports it. False: the mode is audit, and it passes. */
static __always_inline bool deny_packet(const struct pkt_ctx *w, const struct egd_iface *in,
					const struct egd_hello *h, __u8 reason)
{
	bool deny = enforced(in->mode, reason);

	report_packet(w, in, h, reason, EGD_DENY, !deny);
	return deny;
}

/* A segment that does not fit those before it, which its sender sends again: it is
 * counted and not reported. */
static __always_inline int drop_segment(const struct egd_iface *in)
{
	count(EGD_R_SEQUENCE);
	return in->mode == EGD_AUDIT ? TC_PASS : TC_DROP;
}

/* A flow that went on until now. */
static __always_inline int block_flow(struct pkt_ctx *w, const struct egd_iface *in,
				      struct egd_flow *f, const struct egd_hello *h, __u8 reason,
				      __u32 at)
{
	if (!deny_packet(w, in, h, reason)) {
		f->verdict = EGD_DIRECT;
		return TC_PASS;
	}
	f->cut = reason;
	w->reset_seq = at;
	return TC_RESET;
}

/* What a segment of an inspected flow is. */
enum {
	SEG_PASS = 0, /* nothing new before the end of the hello */
	SEG_DROP,     /* does not fit: the sender sends it again */
	SEG_BLOCK,    /* and the reason */
};

/* Whether the flow's hello carries a name that is allowed at its address. */
static __always_inline bool flow_name_allowed(const struct egd_flow_key *k, struct egd_hello *h,
					      __u32 policy)
{
	h->key.policy = policy;
	h->key.port = k->dport;
	__builtin_memcpy(h->key.addr, k->dst, 16);
	return egd_find(&egd_names, &h->key) != NULL;
}

/* Reads a segment at position at of the stream. The caller has the flow's hello
 * for itself. */
static __always_inline int read_stream(struct __sk_buff *skb, struct pkt_ctx *w, struct egd_flow *f,
				       struct egd_hello *h, struct egd_flow_bytes *kept, __u32 at,
				       __u8 *why)
{
	bool settled = f->flags & EGD_F_SETTLED;
	__u32 have = settled ? f->hello : h->next_seq - f->base;
	__u32 off = w->p.off, end = w->p.end, start;
	int got;

	if (at < have) { /* sent again: it must be what passed before */
		start = off + (have - at);
		if (!egd_same_bytes(skb, (struct egd_kept *)kept->data, at, off,
				    start < end ? start : end))
			return SEG_DROP;
		if (start >= end)
			return SEG_PASS;
		off = start;
	} else if (at > have) {
		return settled ? SEG_PASS : SEG_DROP; /* a gap: what fills it comes first */
	}
	if (settled)
		return SEG_PASS;
	start = off;
	got = HELLO_SETTLED;
	if (!(f->flags & EGD_F_SNI_ALLOWED)) {
		got = read_hello(skb, h, &off, end);
		if (got == HELLO_DONE) {
			*why = h->named ? EGD_R_NAME : EGD_R_NO_NAME;
			if (!h->named || !flow_name_allowed(&w->key, h, f->policy))
				return SEG_BLOCK;
			f->flags |= EGD_F_SNI_ALLOWED;
			expect_second(h);
			got = HELLO_MORE;
		}
	}
	if (f->flags & EGD_F_SNI_ALLOWED && (off < end || got == HELLO_SETTLED))
		got = read_second(skb, h, have, &off, end);
	*why = got == HELLO_NOT_TLS    ? EGD_R_NOT_TLS :
	       got == HELLO_OTHER_NAME ? EGD_R_NAME :
					 EGD_R_MALFORMED;
	if (got != HELLO_MORE && got != HELLO_SETTLED)
		return SEG_BLOCK;
	/* Early data may be more than is kept: then it passes once. */
	if (!(f->flags & EGD_F_SNI_ALLOWED && h->early && have + (off - start) > EGD_MAX_KEPT) &&
	    !egd_keep_bytes(skb, (struct egd_kept *)kept->data, have, start, off))
		return SEG_BLOCK;
	h->next_seq = f->base + have + (off - start);
	if (got == HELLO_SETTLED) {
		f->hello = have + (off - start);
		f->flags |= EGD_F_SETTLED;
	}
	return SEG_PASS;
}

/* A segment before the server has acknowledged the whole hello. */
static __always_inline int inspect_segment(struct __sk_buff *skb, struct pkt_ctx *w,
					   const struct egd_iface *in, struct egd_flow *f)
{
	struct egd_flow_bytes *kept;
	struct egd_hello *h;
	__u32 at = w->p.seq - f->base, before;
	bool mine = false, had_name = f->flags & EGD_F_SNI_ALLOWED;
	__u8 why = EGD_R_STORAGE;
	int got = SEG_DROP; /* another segment of the flow, on another CPU */

	h = bpf_map_lookup_elem(&egd_flow_hello, &w->key);
	kept = bpf_map_lookup_elem(&egd_flow_bytes, &w->key);
	if (!h || !kept)
		return block_flow(w, in, f, NULL, why, w->p.seq);
	if (w->p.flags & TCP_URG) /* see inspect() in inspect.h */
		return block_flow(w, in, f, h, EGD_R_MALFORMED, w->p.seq);
	before = h->next_seq;
	bpf_spin_lock(&kept->lock);
	if (!kept->busy) {
		kept->busy = 1;
		mine = true;
	}
	bpf_spin_unlock(&kept->lock);
	if (mine) {
		if ((__s32)at >= 0)
			got = read_stream(skb, w, f, h, kept, at, &why);
		kept->busy = 0;
	}
	if (!had_name && f->flags & EGD_F_SNI_ALLOWED && got == SEG_PASS) {
		count(EGD_C_INSPECT);
		report_packet(w, in, h, EGD_R_NONE, EGD_INSPECT, false);
	}
	switch (got) {
	case SEG_PASS:
		return TC_PASS;
	case SEG_BLOCK:
		return block_flow(w, in, f, h, why, before);
	}
	return drop_segment(in);
}

/* A segment of an inspected flow. */
static __always_inline int inspect_flow(struct __sk_buff *skb, struct pkt_ctx *w,
					const struct egd_iface *in, struct egd_flow *f)
{
	__u32 at = w->p.seq - f->base;

	if (w->p.off == w->p.end)
		return TC_PASS; /* no payload */
	if (f->heard & EGD_H_ACKED) {
		/* Nobody needs the hello's bytes again, so nobody gets others.
		 * hello is 0 once the stream is so long that numbers repeat. */
		if (!f->hello || ((__s32)at >= 0 && at >= f->hello))
			return TC_PASS;
	} else if (f->heard & EGD_H_SYNCED) {
		return inspect_segment(skb, w, in, f);
	}
	return drop_segment(in);
}

/* What the server's segments tell about an inspected flow: with its SYN|ACK
 * where the stream begins, later that it has the hello. */
static __always_inline void track_ack(const struct pkt_ctx *w, struct egd_flow *f)
{
	struct egd_hello *h;
	__u32 got;

	if (!(w->p.flags & TCP_ACK))
		return;
	if (!(f->heard & EGD_H_SYNCED)) {
		h = bpf_map_lookup_elem(&egd_flow_hello, &w->key);
		if (!h || !(w->p.flags & TCP_SYN))
			return;
		f->base = w->p.ack;
		h->next_seq = f->base;
		f->heard |= EGD_H_SYNCED;
		return;
	}
	got = w->p.ack - f->base;
	if (!(f->flags & EGD_F_SETTLED) || (__s32)got < 0)
		return;
	if (!(f->heard & EGD_H_ACKED) && got >= f->hello) {
		f->heard |= EGD_H_ACKED;
		forget_bytes(&w->key);
	}
	if (got > 1 << 30)
		f->hello = 0;
}

#endif
