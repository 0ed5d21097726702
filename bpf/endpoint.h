/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services whose address is not where they are: connect() and sendto() go to
 * one of their endpoints, and the application sees what it dialled. */
#ifndef EGRESSD_ENDPOINT_H
#define EGRESSD_ENDPOINT_H

#include "report.h"

static __always_inline bool is_zero(const __u8 *a)
{
	const __u32 *w = (const __u32 *)a;

	return !(w[0] | w[1] | w[2] | w[3]);
}

/* Draws an endpoint of the set of a verdict (union val) for a flow. Returns EGD_R_NONE or
 * why not. */
__noinline int egd_choose(const struct flow *f, __u64 val, struct egd_endpoint *to)
{
	const union val u = { .raw = val };
	const struct egd_addr_val *v = &u.v;
	struct egd_endpoint_key k = { .set = v->set };
	struct egd_endpoint *e;

	if (!f || !to || !v->slots)
		return EGD_R_NO_ENDPOINT;
	k.slot = bpf_get_prandom_u32() % v->slots;
	e = egd_find(&egd_endpoints, &k);
	if (!e)
		return EGD_R_NO_ENDPOINT;
	__builtin_memcpy(to, e, sizeof(*to));
	if (is_zero(to->addr))
		copy_addr(to->addr, f->addr);
	/* A socket reaches endpoints of the family that it dialled. */
	if (!to->port || is_mapped(to->addr) != is_mapped(f->addr))
		return EGD_R_NO_ENDPOINT;
	return EGD_R_NONE;
}

/* Whether a set has an endpoint; f is what was dialled. */
__noinline int egd_is_member(__u32 set, const struct egd_endpoint *to, const struct flow *f)
{
	struct egd_endpoint_key k = { .set = set, .slot = EGD_MEMBER };

	if (!to || !f)
		return 0;
	k.port = to->port;
	if (same_addr(to->addr, f->addr) && egd_find(&egd_endpoints, &k))
		return true; /* the address that was dialled, on this port */
	__builtin_memcpy(k.addr, to->addr, 16);
	return egd_find(&egd_endpoints, &k) != NULL;
}

/* The endpoint for a datagram of an unconnected socket: the one of the last
 * datagram to that address as long as it is in the set, for a conversation is
 * with one server. What is read here is checked against the set, since another
 * thread may be writing it. */
__noinline int egd_choose_again(struct egd_rewrites *all, const struct egd_socket *st,
				const struct flow *f, __u64 val, struct egd_endpoint *to)
{
	const union val u = { .raw = val };
	const struct egd_addr_val *v = &u.v;
	__u32 slot = EGD_REWRITES;
	struct egd_rewrite *r;
	__u8 reason;
	int i;

	if (!f || !to)
		return EGD_R_STORAGE;
	if (st && st->rewritten && st->origin.dport == f->port &&
	    same_addr(st->origin.dst, f->addr)) { /* sendto() where connect() went */
		copy_addr(to->addr, st->peer);
		to->port = st->peer_port;
		if (egd_is_member(v->set, to, f))
			return EGD_R_NONE;
	}
	if (!all)
		return EGD_R_STORAGE;
	for (i = EGD_REWRITES - 1; i >= 0; i--) {
		r = &all->all[i];
		if (!r->dport || (r->dport == f->port && same_addr(r->dst, f->addr)))
			slot = i;
	}
	if (slot == EGD_REWRITES)
		slot = all->next++;
	r = &all->all[slot & (EGD_REWRITES - 1)];
	if (r->dport == f->port && same_addr(r->dst, f->addr)) {
		copy_addr(to->addr, r->peer);
		to->port = r->peer_port;
		if (egd_is_member(v->set, to, f))
			return EGD_R_NONE;
	}
	reason = egd_choose(f, val, to);
	if (reason != EGD_R_NONE)
		return reason;
	__builtin_memcpy(r->dst, f->addr, 16);
	__builtin_memcpy(r->peer, to->addr, 16);
	r->dport = f->port;
	r->peer_port = to->port;
	return EGD_R_NONE;
}

static __always_inline bool is_peer(const struct egd_socket *st, const struct flow *f)
{
	return st && st->rewritten && st->peer_port == f->port && same_addr(st->peer, f->addr);
}

/* Whether what was dialled, f, leads to an endpoint today. */
__noinline int egd_is_endpoint(const struct flow *f, const struct egd_endpoint *to, __u32 policy)
{
	struct egd_addr_val v;

	if (!f || !to)
		return 0;
	v = lookup_verdict(f, policy);
	return v.verdict == EGD_DIRECT && v.slots && egd_is_member(v.set, to, f);
}

/* Whether what the socket dialled leads to an endpoint today. The tables are
 * asked, for another thread may be writing the socket's peer: two endpoints
 * must not lend their halves to a third address. */
__noinline int egd_leads_to(const struct egd_socket *st, const struct flow *endpoint, __u32 policy)
{
	struct egd_endpoint to = {};
	struct flow f = {};

	if (!st || !endpoint)
		return 0;
	to.port = endpoint->port;
	f.port = st->origin.dport;
	f.proto = endpoint->proto;
	__builtin_memcpy(f.addr, st->origin.dst, 16);
	__builtin_memcpy(to.addr, endpoint->addr, 16);
	return egd_is_endpoint(&f, &to, policy);
}

/* Replaces the sender of a datagram by what the socket dialled; false when it
 * dialled the sender. */
static __always_inline bool find_dialled(struct bpf_sock_addr *ctx, const struct egd_socket *st,
					 struct flow *f)
{
	struct egd_rewrites *all;
	int i;

	if (is_peer(st, f)) {
		__builtin_memcpy(f->addr, st->origin.dst, 16);
		f->port = st->origin.dport;
		return true;
	}
	all = bpf_sk_storage_get(&egd_rewrites, ctx->sk, 0, 0);
	if (!all)
		return false;
	for (i = 0; i < EGD_REWRITES; i++) {
		struct egd_rewrite *r = &all->all[i];

		if (r->dport && r->peer_port == f->port && same_addr(r->peer, f->addr)) {
			__builtin_memcpy(f->addr, r->dst, 16);
			f->port = r->dport;
			return true;
		}
	}
	return false;
}

/* The socket's connection is over. */
static __always_inline void forget_dialled(struct egd_socket *st)
{
	if (st->rewritten)
		bpf_map_delete_elem(&egd_dialled, &st->origin.cookie);
}

/* The socket is connected anew. */
static __always_inline void forget_peer(struct egd_socket *st)
{
	forget_dialled(st);
	st->rewritten = 0;
}

/* Where the connection goes; origin is filled. False: no room to note what was
 * dialled, which user space must know as long as the connection is open. */
static __always_inline bool set_peer(struct egd_socket *st, const struct flow *f,
				     const struct egd_addr_val *v, const struct egd_endpoint *to)
{
	struct egd_dialled dialled = { .port = f->port };

	if (!v->slots) {
		__builtin_memcpy(st->peer, f->addr, 16);
		st->peer_port = f->port;
		return true;
	}
	__builtin_memcpy(st->peer, to->addr, 16);
	st->peer_port = to->port;
	if (!same_addr(to->addr, f->addr)) {
		__builtin_memcpy(dialled.addr, f->addr, 16);
		if (bpf_map_update_elem(&egd_dialled, &st->origin.cookie, &dialled, BPF_ANY))
			return false;
	}
	st->rewritten = 1;
	return true;
}

#endif
