/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* connect() and sendto(): decide, and redirect what the proxies serve. */
#ifndef EGRESSD_SOCK_ADDR_H
#define EGRESSD_SOCK_ADDR_H

#include "publish.h"

/* Return values of cgroup hooks. */
#define REFUSE 0
#define PROCEED 1

static __always_inline void read_flow(struct bpf_sock_addr *ctx, bool v6, struct flow *f)
{
	__u32 *w = (__u32 *)f->addr;

	if (v6) {
		w[0] = ctx->user_ip6[0];
		w[1] = ctx->user_ip6[1];
		w[2] = ctx->user_ip6[2];
		w[3] = ctx->user_ip6[3];
		f->family = AF_INET6;
	} else {
		set_mapped(f->addr, ctx->user_ip4);
		f->family = AF_INET;
	}
	f->port = (__u16)ctx->user_port;
	/* UDP-Lite, SCTP and the rest keep their number and match no rule. */
	f->proto = (__u8)ctx->protocol;
	if (ctx->protocol > 255)
		f->proto = 255;
}

static __always_inline void write_addr(struct bpf_sock_addr *ctx, bool v6,
				       const __u8 *addr, __u16 port)
{
	const __u32 *w = (const __u32 *)addr;

	if (v6) {
		ctx->user_ip6[0] = w[0];
		ctx->user_ip6[1] = w[1];
		ctx->user_ip6[2] = w[2];
		ctx->user_ip6[3] = w[3];
	} else {
		ctx->user_ip4 = w[3];
	}
	ctx->user_port = port;
}

/* The device that the kernel will send the socket's packets by, whatever address
 * they bear; 0: the routing table says. What a control message or a scope id
 * chooses is not seen here: skb_egress refuses what it leads astray. */
static __always_inline __u32 device_of(struct bpf_sock_addr *ctx, const struct egd_socket *st,
				       const struct flow *f)
{
	__u32 device = ctx->sk->bound_dev_if;

	/* TCP has no unicast interface (ip(7) IP_UNICAST_IF). */
	if (!device && st && f->proto == IPPROTO_UDP)
		device = is_mapped(f->addr) ? st->unicast4 : st->unicast6;
	return device == LOOPBACK_IFINDEX ? 0 : device;
}

/* Where egressd's listener is for a socket, in the family that was dialled: on
 * loopback; at an address of the device that the socket is bound to; at the gate for
 * a socket of another network namespace, which has another loopback. Returns why
 * there is none, or 0. */
static __always_inline __u8 find_listener(const struct egd_config *cfg, const struct flow *f,
					  bool foreign, __u32 device, __u8 *addr)
{
	const struct egd_device *d;
	const __u8 *gate;
	__u32 *w = (__u32 *)addr;

	if (foreign) {
		gate = gate_for(cfg, f);
		if (!gate)
			return EGD_R_NETNS;
		__builtin_memcpy(addr, gate, 16);
	} else if (device) {
		d = bpf_map_lookup_elem(&egd_devices, &device);
		if (!d)
			return EGD_R_DEVICE;
		__builtin_memcpy(addr, is_mapped(f->addr) ? d->addr4 : d->addr6, 16);
		if (!(w[0] | w[1] | w[2] | w[3]))
			return EGD_R_DEVICE;
	} else if (is_mapped(f->addr)) {
		set_mapped(addr, bpf_htonl(0x7f000001));
	} else {
		__builtin_memset(addr, 0, 16);
		addr[15] = 1;
	}
	return EGD_R_NONE;
}

/* Finds the listener, its address in addr. Returns why a flow cannot be served
 * there, or 0. */
static __always_inline __u8 to_proxy(const struct egd_config *cfg, const struct flow *f,
				     const struct egd_workload *wl, const struct egd_socket *st,
				     bool foreign, __u32 device, __u8 *addr)
{
	__u8 reason = find_listener(cfg, f, foreign, device, addr);
	bool dns = f->port == PORT_DNS;
	__u32 kind = dns ? EGD_L_DNS_TCP : EGD_L_PROXY;

	if (reason)
		return reason;
	/* A socket that is in the table already may go on asking. */
	if (over_quota(wl->id) && !(f->proto == IPPROTO_UDP && st && st->published[0].port))
		return EGD_R_QUOTA;
	if (f->proto == IPPROTO_TCP && !foreign && over_conn_quota(cfg, wl->id))
		return EGD_R_QUOTA;
	if (f->proto == IPPROTO_UDP)
		kind = EGD_L_DNS_UDP;
	/* All of egressd's sockets live as long as those on loopback. */
	return is_listening(listener_key(f, foreign, kind)) ? EGD_R_NONE : EGD_R_LISTENER;
}

/* To egressd's listener. A socket that is connected there has st. */
static __always_inline void redirect(struct bpf_sock_addr *ctx, bool v6, const __u8 *addr,
				     __u16 port, struct egd_socket *st)
{
	if (st) {
		__builtin_memcpy(st->peer, addr, 16);
		st->peer_port = port;
	}
	write_addr(ctx, v6, addr, port);
}

/* Who calls. */
static __always_inline void fill_caller(struct egd_origin *o, struct bpf_sock_addr *ctx,
					const struct egd_workload *wl, __u64 cgroup)
{
	o->created = bpf_ktime_get_ns();
	o->cookie = bpf_get_socket_cookie(ctx);
	o->cgroup = cgroup;
	o->home = wl->home;
	o->netns = bpf_get_netns_cookie(ctx);
	o->mode = wl->mode;
	o->workload = wl->id;
	o->policy = wl->policy;
	o->pid = bpf_get_current_pid_tgid() >> 32;
	o->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(o->comm, sizeof(o->comm));
}

/* Who calls, and what the socket is connected to from now on. */
static __always_inline void fill_origin(struct egd_origin *o, struct bpf_sock_addr *ctx,
					const struct flow *f, const struct egd_workload *wl,
					__u64 cgroup)
{
	fill_caller(o, ctx, wl, cgroup);
	__builtin_memcpy(o->dst, f->addr, 16);
	o->dport = f->port;
	o->family = f->family;
}

static __always_inline bool same_dst(const struct egd_dst *d, const struct flow *f)
{
	const __u64 *a = (const __u64 *)d->addr;
	const __u64 *b = (const __u64 *)f->addr;

	return d->used && d->port == f->port && a[0] == b[0] && a[1] == b[1];
}

static __always_inline void set_dst(struct egd_dst *d, const struct flow *f)
{
	__builtin_memcpy(d->addr, f->addr, 16);
	d->port = f->port;
	d->family = f->family;
	d->used = 1;
}

/* The slot of the server that a datagram goes to. A connected socket has one
 * server; an unconnected one remembers its last EGD_DNS_SLOTS servers, so that
 * answers can be shown under the right source address. */
static __always_inline __u32 dns_slot(struct egd_socket *st, const struct flow *f, bool connect)
{
	__u32 slot;
	int i;

	if (connect) {
		for (i = 0; i < EGD_DNS_SLOTS; i++)
			st->dns[i].used = 0;
		set_dst(&st->dns[0], f);
		return 0;
	}
	for (i = 0; i < EGD_DNS_SLOTS; i++)
		if (same_dst(&st->dns[i], f))
			return i;
	for (i = 0; i < EGD_DNS_SLOTS; i++) {
		if (!st->dns[i].used) {
			set_dst(&st->dns[i], f);
			return i;
		}
	}
	slot = st->next_slot & (EGD_DNS_SLOTS - 1);
	st->next_slot = slot + 1;
	set_dst(&st->dns[slot], f);
	return slot;
}

/* Remembers who sent a datagram to the socket. A server's answers always pass,
 * as the answers on a connection that somebody opened to the node do. */
static __always_inline void remember_peer(struct bpf_sock_addr *ctx, const struct flow *f)
{
	__u64 now = bpf_ktime_get_ns();
	struct egd_recent *r;
	struct egd_peer_key k;
	int i;

	r = bpf_sk_storage_get(&egd_recent, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	for (i = 0; r && i < EGD_RECENT; i++) {
		if (same_peer(&r->peers[i], f)) {
			if (r->peers[i].at == DIALLED)
				return;
			r->peers[i].at = now;
			r = NULL;
		}
	}
	peer_key(&k, bpf_get_socket_cookie(ctx), f);
	bpf_map_update_elem(&egd_peers, &k, &now, BPF_ANY);
	if (r)
		put_peer(r, f, now);
}

/* The socket sends to a peer because a rule lets it. */
static __always_inline void note_dialled(struct bpf_sock_addr *ctx, const struct flow *f)
{
	struct egd_recent *r;
	int i;

	r = bpf_sk_storage_get(&egd_recent, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!r)
		return;
	for (i = 0; i < EGD_RECENT; i++)
		if (same_peer(&r->peers[i], f))
			return; /* who came first stays who it was */
	put_peer(r, f, DIALLED);
}

/* The socket is connected anew: nothing that was decided before counts. */
static __always_inline void begin_anew(struct egd_socket *st)
{
	forget_peer(st);
	st->redirected = 0;
	st->held = 0;
	st->watched = 0;
	st->proved = 0;
	st->reading = 0;
	st->unjudged = 0;
	st->local = 0;
	st->cut = 0;
}

/* Whose datagrams they are that the socket sends, for skb_egress, which decides
 * about each by its own destination: what sendto() was let do says nothing about
 * the next datagram, and changes nothing of what connect() decided. */
static __always_inline void note_caller(struct egd_socket *st, const struct egd_workload *wl)
{
	if (st && st->origin.home != wl->home)
		st->origin.home = wl->home;
}

static __always_inline int refuse(struct bpf_sock_addr *ctx, const struct flow *f,
				  const struct egd_workload *wl, __u64 cgroup, __u8 reason,
				  bool connect)
{
	report(f, wl, cgroup, reason, false);
	/* A refused connect() is what an app takes for "nobody there"; a
	 * refused datagram keeps the kernel's own EPERM. */
	if (connect)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/* The connection goes straight to its destination or to the endpoint that was
 * chosen for it, and is watched there. */
static __always_inline int go_straight(struct bpf_sock_addr *ctx, bool v6, const struct flow *f,
				       const struct egd_workload *wl, __u64 cgroup,
				       const struct egd_addr_val *v,
				       const struct egd_endpoint *to, __u32 epoch)
{
	struct egd_socket *st;
	struct egd_hello *h;
	struct egd_event *e;

	st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return refuse(ctx, f, wl, cgroup, EGD_R_STORAGE, true);
	if (v->verdict == EGD_INSPECT) {
		h = bpf_sk_storage_get(&egd_hellos, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!h)
			return refuse(ctx, f, wl, cgroup, EGD_R_STORAGE, true);
		__builtin_memset(h, 0, sizeof(*h)); /* of an earlier connect() */
		h->need = 1; /* the handshake type */
	}
	begin_anew(st);
	fill_origin(&st->origin, ctx, f, wl, cgroup);
	if (!set_peer(st, f, v, to))
		return refuse(ctx, f, wl, cgroup, EGD_R_MAP_FULL, true);
	if (st->rewritten)
		write_addr(ctx, v6, to->addr, to->port);
	st->verdict = v->verdict;
	st->epoch = epoch;
	st->watched = 1;
	if (v->verdict == EGD_DIRECT) {
		count(EGD_C_DIRECT);
		e = socket_event(st, EGD_E_DECISION, EGD_R_NONE);
		if (e) {
			e->proto = f->proto;
			bpf_ringbuf_submit(e, no_hurry());
		}
	}
	return PROCEED;
}

/* The flow goes where it wants: nobody judges it, for the workload's mode is
 * audit or off. A connection is noted, so that skb_egress judges it as soon as
 * the mode is enforce; datagrams are judged one by one anyway. */
static __always_inline int let_pass(struct bpf_sock_addr *ctx, struct egd_socket *st,
				    const struct flow *f, const struct egd_workload *wl,
				    __u64 cgroup, bool connect, __u32 epoch)
{
	if (f->proto != IPPROTO_TCP) {
		if (connect && st)
			begin_anew(st);
		note_caller(st, wl);
		return PROCEED;
	}
	st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st) /* of two wrongs, breaking what is not enforced is the greater */
		return PROCEED;
	begin_anew(st);
	fill_origin(&st->origin, ctx, f, wl, cgroup);
	__builtin_memcpy(st->peer, f->addr, 16);
	st->peer_port = f->port;
	st->verdict = EGD_DIRECT;
	st->epoch = epoch;
	st->unjudged = 1;
	st->watched = 1;
	return PROCEED;
}

/* What goes to the node itself is not judged: by loopback, or to another address of
 * its own. What is let pass as that has to stay there, which skb_egress sees to. */
static __always_inline int stay_local(struct bpf_sock_addr *ctx, struct egd_socket *st,
				      const struct flow *f, const struct egd_workload *wl,
				      __u64 cgroup, bool connect, bool own)
{
	count(EGD_C_PASS_LOOPBACK);
	if (f->proto == IPPROTO_TCP || own)
		st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return f->proto == IPPROTO_TCP || own ?
			       refuse(ctx, f, wl, cgroup, EGD_R_STORAGE, connect) : PROCEED;
	note_caller(st, wl);
	if (own) /* skb_egress asks whose namespace it is */
		st->origin.netns = bpf_get_netns_cookie(ctx);
	if (!connect)
		return PROCEED;
	begin_anew(st);
	if (own)
		fill_origin(&st->origin, ctx, f, wl, cgroup);
	__builtin_memcpy(st->peer, f->addr, 16);
	st->peer_port = f->port;
	st->verdict = EGD_DIRECT;
	st->local = 1;
	return PROCEED;
}

/* The one decision for connect4/6 and sendmsg4/6. */
static __always_inline int dial(struct bpf_sock_addr *ctx, bool v6, bool connect)
{
	struct egd_config *cfg = get_config();
	struct egd_workload *wl;
	struct egd_socket *st;
	struct egd_endpoint to = {};
	struct egd_addr_val v = { .verdict = EGD_PROXY };
	struct flow f = {};
	__u64 cgroup = 0;
	__u8 reason;
	__u32 slot = 0, device;
	bool dns, foreign, at_gate, own;

	/* The kernel refuses another family than the socket's behind this hook.
	 * Nothing has been decided then, so nothing may be noted. */
	if (connect && ctx->user_family != (v6 ? AF_INET6 : AF_INET)) {
		bpf_set_retval(-EAFNOSUPPORT);
		return REFUSE;
	}
	read_flow(ctx, v6, &f);
	wl = find_workload(&cgroup);
	if (!wl)
		return refuse(ctx, &f, wl, cgroup, EGD_R_NO_WORKLOAD, connect);
	st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, 0);
	if (wl->flags & EGD_WL_EXEMPT) {
		count(wl->flags & EGD_WL_OUTSIDE ? EGD_C_PASS_OUTSIDE : EGD_C_PASS_OWN);
		if (connect && st)
			begin_anew(st);
		note_caller(st, wl);
		return PROCEED;
	}
	if (wl->mode == EGD_OFF) {
		count(EGD_C_PASS_OWN);
		if (is_loopback(f.addr))
			return stay_local(ctx, st, &f, wl, cgroup, connect, false);
		return let_pass(ctx, st, &f, wl, cgroup, connect, cfg ? cfg->epoch : 0);
	}
	if (!cfg || !cfg->ready)
		return refuse(ctx, &f, wl, cgroup, EGD_R_NO_CONFIG, connect);

	/* Sending on a connected IPv6 socket whose peer is v4-mapped comes through
	 * sendmsg4 with the address that connect() was rewritten to
	 * (udpv6_sendmsg hands over to udp_sendmsg with an address). */
	if (!connect && is_peer(st, &f) && leads_to(st, &f, wl->policy))
		return PROCEED;
	dns = f.port == PORT_DNS && (f.proto == IPPROTO_UDP || f.proto == IPPROTO_TCP);
	foreign = bpf_get_netns_cookie(ctx) != cfg->netns_cookie;
	at_gate = is_gate(cfg, &f);
	own = false;
	if (!dns && !at_gate && !is_loopback(f.addr)) {
		v = workload_verdict(&f, wl);
		/* What the policy says of an address of the node goes first: NAT may
		 * stand there, which leads away. */
		own = v.verdict == EGD_DENY && !foreign && is_own(f.addr);
	}
	if (!dns && (at_gate || own || is_loopback(f.addr)) &&
	    (f.proto == IPPROTO_UDP || f.proto == IPPROTO_TCP)) {
		/* As above: a connected v4-mapped socket sends to its DNS listener. */
		if (!connect && st && st->redirected && f.port == cfg->dns_port[0])
			return PROCEED;
		/* A listener serves only what was redirected to it, and the gate
		 * is for nothing else. */
		if (at_gate || is_own_port(cfg, &f))
			return refuse(ctx, &f, wl, cgroup, EGD_R_OWN_PORT, connect);
		return stay_local(ctx, st, &f, wl, cgroup, connect, own);
	}

	device = foreign ? 0 : device_of(ctx, st, &f);
	reason = EGD_R_NONE;
	if (f.proto != IPPROTO_UDP && f.proto != IPPROTO_TCP)
		reason = EGD_R_SOCKET_TYPE;
	else if (v.verdict == EGD_DENY)
		reason = EGD_R_NO_RULE;
	else if (f.proto == IPPROTO_UDP && !dns && v.verdict != EGD_DIRECT)
		reason = EGD_R_NO_RULE; /* only TCP has a forwarding core or a hello */
	else if (v.verdict == EGD_PROXY)
		reason = to_proxy(cfg, &f, wl, st, foreign, device, to.addr);
	else if (v.slots)
		reason = connect ? choose(&f, &v, &to) : choose_again(ctx, st, &f, &v, &to);

	if (reason == EGD_R_NO_RULE && f.proto == IPPROTO_UDP && connect &&
	    (wl->mode == EGD_AUDIT || is_known(&f, wl->policy))) {
		/* getaddrinfo(3) connects a UDP socket to each answer to learn
		 * the source address that the kernel would use (RFC 6724), and
		 * sends nothing. Let it ask; skb_egress refuses what it sends. */
		st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!st)
			return refuse(ctx, &f, wl, cgroup, EGD_R_STORAGE, connect);
		begin_anew(st);
		fill_origin(&st->origin, ctx, &f, wl, cgroup);
		st->held = 1;
		return PROCEED;
	}
	if (reason == EGD_R_NO_RULE && f.proto == IPPROTO_UDP && !connect &&
	    egd_is_reply(bpf_sk_storage_get(&egd_recent, ctx->sk, 0, 0), bpf_get_socket_cookie(ctx), &f)) {
		count(EGD_C_REPLY);
		note_caller(st, wl);
		return PROCEED;
	}
	if (reason != EGD_R_NONE) {
		if (wl->mode == EGD_AUDIT) {
			report(&f, wl, cgroup, reason, true);
			return let_pass(ctx, st, &f, wl, cgroup, connect, cfg->epoch);
		}
		return refuse(ctx, &f, wl, cgroup, reason, connect);
	}
	if (v.verdict != EGD_PROXY) {
		if (f.proto == IPPROTO_UDP)
			note_dialled(ctx, &f);
		if (connect)
			return go_straight(ctx, v6, &f, wl, cgroup, &v, &to, cfg->epoch);
		/* skb_egress decides again, by the caller's policy. */
		st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (!st)
			return refuse(ctx, &f, wl, cgroup, EGD_R_STORAGE, connect);
		note_caller(st, wl);
		if (v.slots)
			write_addr(ctx, v6, to.addr, to.port);
		count(EGD_C_DIRECT);
		return PROCEED;
	}

	st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return refuse(ctx, &f, wl, cgroup, EGD_R_STORAGE, connect);
	if (connect) {
		begin_anew(st);
		fill_origin(&st->origin, ctx, &f, wl, cgroup);
		st->verdict = EGD_PROXY;
		st->redirected = 1;
	} else {
		fill_caller(&st->origin, ctx, wl, cgroup);
	}
	st->epoch = cfg->epoch;
	st->origin.ifindex = device;
	if (f.proto == IPPROTO_TCP) {
		count(dns ? EGD_C_DNS : EGD_C_PROXY);
		redirect(ctx, v6, to.addr, dns ? cfg->dns_tcp_port : cfg->proxy_port, st);
		return PROCEED;
	}
	count(EGD_C_DNS);
	slot = dns_slot(st, &f, connect) & (EGD_DNS_SLOTS - 1);
	redirect(ctx, v6, to.addr, cfg->dns_port[slot], connect ? st : NULL);
	return PROCEED;
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
		slot = slot_of(cfg, f.port);
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
static __always_inline int guard_bind(struct bpf_sock_addr *ctx, bool v6)
{
	struct egd_config *cfg = get_config();
	struct egd_workload *wl;
	struct flow f = {};
	__u64 cgroup = 0;

	read_flow(ctx, v6, &f);
	wl = find_workload(&cgroup);
	if (wl && (wl->flags & EGD_WL_EXEMPT))
		return PROCEED;
	if (!cfg || !f.port || !is_own_port(cfg, &f))
		return PROCEED;
	report(&f, wl, cgroup, EGD_R_OWN_PORT, false);
	return REFUSE;
}

#endif
