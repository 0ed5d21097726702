/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* connect() and sendto(): decide, and redirect what the proxies serve. */
#ifndef EGRESSD_SOCK_ADDR_H
#define EGRESSD_SOCK_ADDR_H

#include "attempt.h"

/* The connection goes straight to its destination or to the endpoint that was
 * chosen for it, and is watched there. */
static __always_inline int connect_direct(struct bpf_sock_addr *ctx, const struct attempt *a,
					  const struct egd_workload *wl, __u32 epoch)
{
	struct egd_addr_val v = a->u.v;
	struct egd_socket *st = make_storage(ctx);

	if (!st || (v.verdict == EGD_INSPECT && !make_hello(ctx)))
		return refuse(a, wl, true, EGD_R_STORAGE);
	clear_decision(st);
	fill_origin(&st->origin, ctx, a, wl);
	if (!set_peer(st, &a->f, &v, &a->to))
		return refuse(a, wl, true, EGD_R_MAP_FULL);
	st->verdict = v.verdict;
	st->epoch = epoch;
	st->watched = 1;
	if (v.verdict == EGD_DIRECT) {
		count(EGD_C_DIRECT);
		report_allowed(st, NULL, a->f.proto);
	}
	return st->rewritten ? REWRITE : PROCEED;
}

/* The connection is with whom it was dialled, whatever the policy says. */
static __always_inline void set_unjudged(struct egd_socket *st, const struct flow *f)
{
	__builtin_memcpy(st->peer, f->addr, 16);
	st->peer_port = f->port;
	st->verdict = EGD_DIRECT;
}

/* The flow goes where it wants: nobody judges it, for the workload's mode is
 * audit or off. A connection is noted, so that skb_egress judges it as soon as
 * the mode is enforce; datagrams are judged one by one anyway. */
__noinline int egd_let_pass(struct bpf_sock_addr *ctx, const struct attempt *a,
			    const struct egd_workload *wl)
{
	struct egd_config *cfg = get_config();
	struct egd_socket *st;

	if (!a || !wl)
		return REFUSE;
	if (a->f.proto != IPPROTO_TCP) {
		st = find_storage(ctx);
		if (a->connect && st)
			clear_decision(st);
		note_caller(st, wl);
		return PROCEED;
	}
	st = make_storage(ctx);
	if (!st) /* of two wrongs, breaking what is not enforced is the greater */
		return PROCEED;
	clear_decision(st);
	fill_origin(&st->origin, ctx, a, wl);
	set_unjudged(st, &a->f);
	st->epoch = cfg ? cfg->epoch : 0;
	st->unjudged = 1;
	st->unread = wl->mode == EGD_AUDIT;
	st->watched = 1;
	return PROCEED;
}

/* What goes to the node itself is not judged: by loopback, or (own) to another address
 * of its own. What is let pass as that has to stay there, which skb_egress sees to. */
__noinline int egd_pass_local(struct bpf_sock_addr *ctx, const struct attempt *a,
			      const struct egd_workload *wl, bool own)
{
	struct egd_socket *st;

	if (!a || !wl)
		return REFUSE;
	count(EGD_C_PASS_LOOPBACK);
	if (a->f.proto == IPPROTO_TCP || own) {
		st = make_storage(ctx);
		if (!st)
			return refuse(a, wl, a->connect, EGD_R_STORAGE);
	} else {
		st = find_storage(ctx);
		if (!st)
			return PROCEED;
	}
	note_caller(st, wl);
	if (own) /* skb_egress asks whose namespace it is */
		st->origin.netns = bpf_get_netns_cookie(ctx);
	if (!a->connect)
		return PROCEED;
	clear_decision(st);
	if (own)
		fill_origin(&st->origin, ctx, a, wl);
	set_unjudged(st, &a->f);
	st->local = 1;
	return PROCEED;
}

/* What no policy is asked about because of who calls, and what was decided before. */
static __always_inline int exempt(struct bpf_sock_addr *ctx, struct attempt *a,
				  const struct egd_config *cfg, struct egd_workload *wl,
				  struct egd_socket *st, bool connect)
{
	__u8 flags = wl->flags;

	if (flags & EGD_WL_EXEMPT) {
		count(flags & EGD_WL_OUTSIDE ? EGD_C_PASS_OUTSIDE : EGD_C_PASS_OWN);
		if (connect && st)
			clear_decision(st);
		note_caller(st, wl);
		return PROCEED;
	}
	if (wl->mode == EGD_OFF) {
		count(EGD_C_PASS_OWN);
		/* The verifier knows nothing of what they return. */
		if (is_loopback(a->f.addr))
			return egd_pass_local(ctx, a, wl, false) != 0;
		return egd_let_pass(ctx, a, wl) != 0;
	}
	if (!cfg || !cfg->ready)
		return refuse(a, wl, connect, EGD_R_NO_CONFIG);
	/* Sending on a connected IPv6 socket whose peer is v4-mapped comes through
	 * sendmsg4 with the address that connect() was rewritten to
	 * (udpv6_sendmsg hands over to udp_sendmsg with an address). */
	if (!connect && is_peer(st, &a->f) && egd_leads_to(st, &a->f, wl->policy))
		return PROCEED;
	return UNDECIDED;
}

/* What the tables say, in u; and what goes to the node itself, about which nobody
 * asks them. */
static __always_inline int exempt_local(struct bpf_sock_addr *ctx, struct attempt *a,
					const struct egd_config *cfg, struct egd_workload *wl,
					const struct egd_socket *st, bool connect)
{
	bool at_gate = is_gate(cfg, &a->f), loopback = is_loopback(a->f.addr), own = false;
	bool transport = a->f.proto == IPPROTO_UDP || a->f.proto == IPPROTO_TCP;
	bool dns = a->f.port == PORT_DNS && transport;
	union val u = { .v.verdict = EGD_PROXY };

	a->dns = dns;
	a->foreign = bpf_get_netns_cookie(ctx) != cfg->netns_cookie;
	if (!dns && !at_gate && !loopback) {
		u.v = workload_verdict(&a->f, wl);
		/* What the policy says of an address of the node goes first: NAT may
		 * stand there, which leads away. */
		own = u.v.verdict == EGD_DENY && !a->foreign && is_own(a->f.addr);
		/* Nor does anything that is open lead to egressd itself: the node has
		 * addresses inside of the cluster, which pods reach as well. */
		if (u.v.verdict != EGD_DENY && transport && is_own_port(&a->f) && is_own(a->f.addr))
			return refuse(a, wl, connect, EGD_R_OWN_PORT);
	}
	a->u = u;
	if (dns || !transport || !(at_gate || own || loopback))
		return UNDECIDED;
	/* As above: a connected v4-mapped socket sends to its DNS listener. */
	if (!connect)
		st = find_storage(ctx);
	if (!connect && st && st->redirected && a->f.port == cfg->dns_port[0])
		return PROCEED;
	/* A listener serves only what was redirected to it, and the gate is for
	 * nothing else. */
	if (at_gate || is_own_port(&a->f))
		return refuse(a, wl, connect, EGD_R_OWN_PORT);
	return egd_pass_local(ctx, a, wl, own) != 0;
}

/* Why the flow is denied, or EGD_R_NONE: then it goes the way of u, and to is filled. */
__noinline int egd_classify(struct bpf_sock_addr *ctx, struct attempt *a,
			    const struct egd_workload *wl, const struct egd_socket *st)
{
	struct egd_config *cfg = get_config();
	struct egd_addr_val v;
	bool udp;

	if (!a || !wl || !cfg)
		return EGD_R_NO_CONFIG;
	v = a->u.v;
	udp = a->f.proto == IPPROTO_UDP;
	a->device = a->foreign ? 0 : device_of(ctx, a, st);
	if (!udp && a->f.proto != IPPROTO_TCP)
		return EGD_R_SOCKET_TYPE;
	if (v.verdict == EGD_DENY)
		return EGD_R_NO_RULE;
	if (udp && !a->dns && v.verdict != EGD_DIRECT)
		return EGD_R_NO_RULE; /* only TCP has a forwarding core or a hello */
	if (v.verdict == EGD_PROXY)
		return find_proxy_listener(a, cfg, st, wl->id);
	if (!v.slots)
		return EGD_R_NONE;
	/* A datagram stays with the endpoint of the last one (choose_again). */
	return a->connect ? egd_choose(&a->f, a->u.raw, &a->to) : EGD_R_NONE;
}

/* The endpoint for a datagram, in to. */
static __always_inline int choose_again(struct bpf_sock_addr *ctx, struct attempt *a)
{
	struct egd_rewrites *all =
		bpf_sk_storage_get(&egd_rewrites, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	return egd_choose_again(all, find_storage(ctx), &a->f, a->u.raw, &a->to);
}

/* A connect() of UDP without a rule is let pass all the same where nothing is sent by
 * that. */
static __always_inline int udp_exception(struct bpf_sock_addr *ctx, const struct attempt *a,
					 const struct egd_workload *wl)
{
	struct egd_socket *st;

	if (wl->mode != EGD_AUDIT && !is_known(&a->f, wl->policy))
		return UNDECIDED;
	/* getaddrinfo(3) connects a UDP socket to each answer to learn the source
	 * address that the kernel would use (RFC 6724), and sends nothing. Let it
	 * ask; skb_egress refuses what it sends. */
	st = make_storage(ctx);
	if (!st)
		return refuse(a, wl, true, EGD_R_STORAGE);
	clear_decision(st);
	fill_origin(&st->origin, ctx, a, wl);
	st->udp_blocked = 1;
	return PROCEED;
}

/* Whether a datagram without a rule answers somebody; then it is let pass. */
static __always_inline bool is_answer(struct bpf_sock_addr *ctx, const struct attempt *a,
				      const struct egd_workload *wl)
{
	if (!egd_is_reply(bpf_sk_storage_get(&egd_recent, ctx->sk, 0, 0),
			  bpf_get_socket_cookie(ctx), &a->f))
		return false;
	count(EGD_C_REPLY);
	note_caller(find_storage(ctx), wl);
	return true;
}

/* EGD_DIRECT and EGD_INSPECT. */
static __always_inline int pass(struct bpf_sock_addr *ctx, const struct attempt *a,
				const struct egd_workload *wl, __u32 epoch)
{
	struct egd_socket *st;

	if (a->f.proto == IPPROTO_UDP)
		note_dialled(ctx, &a->f);
	if (a->connect)
		return connect_direct(ctx, a, wl, epoch);
	/* skb_egress decides again, by the caller's policy. */
	st = make_storage(ctx);
	if (!st)
		return refuse(a, wl, false, EGD_R_STORAGE);
	note_caller(st, wl);
	count(EGD_C_DIRECT);
	return a->u.v.slots ? REWRITE : PROCEED;
}

/* EGD_PROXY: to egressd's listener. */
static __always_inline int redirect(struct bpf_sock_addr *ctx, struct attempt *a,
				    const struct egd_workload *wl, const struct egd_config *cfg)
{
	bool tcp = a->f.proto == IPPROTO_TCP;
	struct egd_socket *st = make_storage(ctx);
	__u16 port;

	if (!st)
		return refuse(a, wl, a->connect, EGD_R_STORAGE);
	if (a->connect) {
		clear_decision(st);
		fill_origin(&st->origin, ctx, a, wl);
		st->verdict = EGD_PROXY;
		st->redirected = 1;
	} else {
		fill_caller(&st->origin, ctx, a, wl);
	}
	st->epoch = cfg->epoch;
	st->origin.ifindex = a->device;
	count(a->dns ? EGD_C_DNS : EGD_C_PROXY);
	if (tcp)
		port = a->dns ? cfg->dns_tcp_port : cfg->proxy_port;
	else
		port = cfg->dns_port[egd_dns_slot(st, &a->f, a->connect) & (EGD_DNS_SLOTS - 1)];
	if (a->connect) { /* it is connected there */
		__builtin_memcpy(st->peer, a->to.addr, 16);
		st->peer_port = port;
	}
	a->to.port = port;
	return REWRITE;
}

/* Does what was decided; reason is classify's. */
__noinline int egd_act(struct bpf_sock_addr *ctx, struct attempt *a, const struct egd_workload *wl,
		       __u8 reason)
{
	struct egd_config *cfg = get_config();
	int excused;

	if (!a || !wl || !cfg)
		return REFUSE;
	if (reason == EGD_R_NO_RULE && a->f.proto == IPPROTO_UDP && a->connect) {
		excused = udp_exception(ctx, a, wl);
		if (excused != UNDECIDED)
			return excused;
	}
	if (reason != EGD_R_NONE && egd_deny_call(&a->f, wl, a->cgroup, wl->mode, reason))
		return fail(a->connect);
	if (reason != EGD_R_NONE)
		return egd_let_pass(ctx, a, wl);
	return a->u.v.verdict == EGD_PROXY ? redirect(ctx, a, wl, cfg) :
					     pass(ctx, a, wl, cfg->epoch);
}

/* What no exemption decides; connect is known when the program is compiled, so that a
 * program has only what its hook needs. */
static __always_inline int decide(struct bpf_sock_addr *ctx, struct attempt *a,
				  const struct egd_workload *wl, const struct egd_socket *st,
				  bool connect)
{
	/* Looked for again, where much lies between: the verifier would follow all of it
	 * with a socket that has storage and with one that has none. */
	__u8 reason = egd_classify(ctx, a, wl, connect ? st : find_storage(ctx));

	if (!connect && reason == EGD_R_NONE && a->u.v.verdict != EGD_PROXY && a->u.v.slots)
		reason = choose_again(ctx, a);
	if (!connect && reason == EGD_R_NO_RULE && a->f.proto == IPPROTO_UDP &&
	    is_answer(ctx, a, wl))
		return PROCEED;
	return egd_act(ctx, a, wl, reason);
}

/* The one decision for connect4/6 and sendmsg4/6: read, exempt, classify, act. */
static __always_inline int dial(struct bpf_sock_addr *ctx, bool v6, bool connect)
{
	struct attempt a = { .connect = connect };
	struct egd_socket *st; /* NULL: nothing was decided about the socket */
	struct egd_workload *wl;
	struct egd_config *cfg;
	int done;

	/* The kernel refuses another family than the socket's behind this hook.
	 * Nothing has been decided then, so nothing may be noted. */
	if (connect && ctx->user_family != (v6 ? AF_INET6 : AF_INET)) {
		bpf_set_retval(-EAFNOSUPPORT);
		return REFUSE;
	}
	read_flow(ctx, v6, &a.f);
	cfg = get_config();
	wl = find_workload(&a.cgroup);
	if (!wl)
		return refuse(&a, NULL, connect, EGD_R_NO_WORKLOAD);
	st = find_storage(ctx);
	done = exempt(ctx, &a, cfg, wl, st, connect);
	if (done == UNDECIDED)
		done = exempt_local(ctx, &a, cfg, wl, st, connect);
	if (done == UNDECIDED)
		done = decide(ctx, &a, wl, st, connect);
	if (done == REWRITE)
		write_addr(ctx, v6, a.to.addr, a.to.port);
	return done == PROCEED || done == REWRITE;
}

#endif
