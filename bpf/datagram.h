/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Datagrams: each is decided by its own destination, whatever the hooks of
 * connect() and sendto() said about the socket before. They can be made to speak
 * of another peer than the socket has (a connect() that fails behind its hook, a
 * sendto() between two send()s, a corked datagram), and the policy may have
 * changed since. */
#ifndef EGRESSD_DATAGRAM_H
#define EGRESSD_DATAGRAM_H

#include "endpoint.h"
#include "packet.h"

/* How long after a datagram its sender may be answered, nanoseconds. */
#define REPLY_TIME (120ULL * 1000000000ULL)

/* egd_peer.at of a peer that the socket itself sent to first, because a rule let
 * it: what comes from there is an answer and opens nothing. Else a flow whose rule
 * is gone would go on by its answers for ever. */
#define DIALLED (~0ULL)

static __always_inline void peer_key(struct egd_peer_key *k, __u64 cookie, const struct flow *f)
{
	__builtin_memset(k, 0, sizeof(*k));
	k->cookie = cookie;
	__builtin_memcpy(k->addr, f->addr, 16);
	k->port = f->port;
}

/* Where a peer is in the socket's list; EGD_RECENT: nowhere. */
__noinline __u32 egd_find_peer(const struct egd_recent *r, const struct flow *f)
{
	__u64 addr[2];
	__u32 i;

	if (!r || !f)
		return EGD_RECENT;
	__builtin_memcpy(addr, f->addr, 16);
	for (i = 0; i < EGD_RECENT; i++) {
		const struct egd_peer *p = &r->peers[i];
		const __u64 *w = (const __u64 *)p->addr; /* behind at */

		/* One comparison: the verifier follows each branch. */
		if (((w[0] ^ addr[0]) | (w[1] ^ addr[1]) | (p->port ^ f->port)) == 0 && p->at)
			return i;
	}
	return EGD_RECENT;
}

/* Whether a datagram answers somebody; r is the socket's egd_recent, or NULL. */
__noinline int egd_is_reply(const struct egd_recent *r, __u64 cookie, const struct flow *f)
{
	__u64 now = bpf_ktime_get_ns();
	struct egd_peer_key k;
	__u64 *at, read;
	__u32 i;

	if (!f)
		return 0;
	i = egd_find_peer(r, f);
	if (r && i < EGD_RECENT) {
		read = r->peers[i & (EGD_RECENT - 1)].at;
		return read != DIALLED && now - read < REPLY_TIME;
	}
	peer_key(&k, cookie, f);
	at = bpf_map_lookup_elem(&egd_peers, &k);
	return at && now - *at < REPLY_TIME;
}

/* Puts a peer into the socket's list; dialled ones stay as long as there are
 * others. The caller knows that it is not in there. */
__noinline int egd_put_peer(struct egd_recent *r, const struct flow *f, __u64 when)
{
	struct egd_peer *p;
	__u32 at;
	int i;

	if (!r || !f)
		return 0;
	at = r->next;
	for (i = 0; i < EGD_RECENT; i++, at++)
		if (r->peers[at & (EGD_RECENT - 1)].at != DIALLED)
			break;
	r->next = at + 1;
	p = &r->peers[at & (EGD_RECENT - 1)];
	p->at = 0; /* nobody's while it is written */
	__builtin_memcpy(p->addr, f->addr, 16);
	p->port = f->port;
	p->at = when;
	return 0;
}

/* Puts a peer into the socket's list that it sends to; r may be NULL. Who came first
 * stays who it was. */
static __always_inline void add_dialled(struct egd_recent *r, const struct flow *f)
{
	if (r && egd_find_peer(r, f) == EGD_RECENT)
		egd_put_peer(r, f, DIALLED);
}

/* Whether what one of the socket's rewrites stands for leads to the endpoint
 * today. Another thread may be writing the entry: two must not lend their halves
 * to a third address, so the tables are asked. */
__noinline int egd_was_rewritten(const struct egd_rewrites *all, const struct flow *to,
				 __u32 policy)
{
	struct egd_endpoint peer = {};
	int i;

	if (!all || !to)
		return 0;
	peer.port = to->port;
	__builtin_memcpy(peer.addr, to->addr, 16);
	for (i = 0; i < EGD_REWRITES; i++) {
		const struct egd_rewrite *r = &all->all[i];
		struct flow f = { .port = r->dport, .proto = IPPROTO_UDP };

		if (!r->dport || r->peer_port != to->port || !same_addr(r->peer, to->addr))
			continue;
		__builtin_memcpy(f.addr, r->dst, 16);
		if (egd_is_endpoint(&f, &peer, policy))
			return 1;
	}
	return 0;
}

/* Whether a datagram may go where it goes. */
static __always_inline bool datagram_allowed(struct __sk_buff *skb, struct bpf_sock *sk,
					     const struct egd_socket *st, const struct flow *to,
					     const struct egd_workload *wl)
{
	struct egd_endpoint self = { .port = to->port };
	struct egd_addr_val v;

	if (to->port != PORT_DNS) { /* questions go to the DNS proxy, by whatever rule */
		v = workload_verdict(to, wl);
		if (v.verdict == EGD_DIRECT && !v.slots)
			return true;
		__builtin_memcpy(self.addr, to->addr, 16);
		if (v.verdict == EGD_DIRECT && egd_is_member(v.set, &self, to))
			return true; /* an endpoint of its own */
		if (is_peer(st, to) && egd_leads_to(st, to, wl->policy))
			return true;
		if (egd_was_rewritten(bpf_sk_storage_get(&egd_rewrites, sk, 0, 0), to, wl->policy))
			return true;
	}
	return egd_is_reply(bpf_sk_storage_get(&egd_recent, sk, 0, 0), bpf_get_socket_cookie(skb),
			    to);
}

/* The workload whose datagram it is: that of who called last, else that of the
 * socket's cgroup. */
static __always_inline struct egd_workload *sender_of(struct __sk_buff *skb,
						      const struct egd_socket *st)
{
	struct egd_workload *wl;
	__u64 home; /* what an argument points to is no key before Linux 6.2 */

	if (!st || !st->origin.home)
		return find_skb_workload(skb);
	home = st->origin.home;
	wl = bpf_map_lookup_elem(&egd_workloads, &home);
	return wl ? wl : find_around(skb);
}

#endif
