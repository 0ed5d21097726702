/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What applications see of where their sockets are connected and who answers, and
 * who may stand at egressd's ports. */
#ifndef EGRESSD_RESTORE_H
#define EGRESSD_RESTORE_H

#include "sock_addr.h"

/* Remembers who sent a datagram to the socket. A server's answers always pass,
 * as the answers on a connection that somebody opened to the node do. */
static __always_inline void remember_peer(struct bpf_sock_addr *ctx, const struct flow *f)
{
	__u64 now = bpf_ktime_get_ns();
	struct egd_recent *r;
	struct egd_peer_key k;
	struct egd_peer *p;
	__u32 i;

	r = bpf_sk_storage_get(&egd_recent, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	i = egd_find_peer(r, f);
	if (r && i < EGD_RECENT) {
		p = &r->peers[i & (EGD_RECENT - 1)];
		if (p->at == DIALLED)
			return;
		p->at = now;
		r = NULL;
	}
	peer_key(&k, bpf_get_socket_cookie(ctx), f);
	bpf_map_update_elem(&egd_peers, &k, &now, BPF_ANY);
	if (r)
		egd_put_peer(r, f, now);
}

/* Whether egressd stands at an address. */
static __always_inline bool is_listener(const struct egd_config *cfg, const struct egd_socket *st,
					const struct flow *f)
{
	return is_loopback(f->addr) || is_gate(cfg, f) ||
	       (st->origin.netns == cfg->netns_cookie && is_own(f->addr));
}

/* Whether the calling process is in none of the captured cgroups. */
static __always_inline bool is_outsider(void)
{
	__u64 cgroup;
	struct egd_workload *wl = find_workload(&cgroup);

	return wl && (wl->flags & EGD_WL_OUTSIDE);
}

/* Answers of the DNS proxy come from one of egressd's addresses; show the server that
 * was asked. Answers of an endpoint come from what was dialled. Others are
 * remembered, so that they can be answered. */
static __always_inline int restore_source(struct bpf_sock_addr *ctx, bool v6)
{
	struct egd_config *cfg = get_config();
	struct egd_socket *st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, 0);
	struct flow f = {};
	__u32 slot;

	if (!st && cfg && cfg->above && is_outsider())
		return PROCEED;
	read_flow(ctx, v6, &f);
	if (cfg && st) {
		slot = egd_slot_of(f.port);
		if (slot < EGD_DNS_SLOTS && st->dns[slot & (EGD_DNS_SLOTS - 1)].used &&
		    is_listener(cfg, st, &f)) {
			slot &= EGD_DNS_SLOTS - 1;
			write_addr(ctx, v6, st->dns[slot].addr, st->dns[slot].port);
			return PROCEED;
		}
	}
	if (is_loopback(f.addr) || (cfg && is_gate(cfg, &f)))
		return PROCEED;
	if (find_dialled(ctx, st, &f))
		write_addr(ctx, v6, f.addr, f.port);
	else
		remember_peer(ctx, &f);
	return PROCEED;
}

/* getpeername() shows what the workload dialled. */
static __always_inline int restore_peer(struct bpf_sock_addr *ctx, bool v6)
{
	struct egd_socket *st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, 0);

	if (st && (st->redirected || st->rewritten))
		write_addr(ctx, v6, st->origin.dst, st->origin.dport);
	return PROCEED;
}

/* Only egressd itself may stand at egressd's ports: whoever took one while the
 * daemon is down would be handed the other workloads' connections. */
static __always_inline int check_bind(struct bpf_sock_addr *ctx, bool v6)
{
	struct egd_config *cfg = get_config();
	struct egd_workload *wl;
	struct flow f = {};
	__u64 cgroup = 0;

	read_flow(ctx, v6, &f);
	wl = find_workload(&cgroup);
	if (wl && (wl->flags & EGD_WL_EXEMPT))
		return PROCEED;
	if (!cfg || !f.port || !is_own_port(&f))
		return PROCEED;
	egd_deny_call(&f, wl, cgroup, EGD_ENFORCE, EGD_R_OWN_PORT);
	return REFUSE;
}

#endif
