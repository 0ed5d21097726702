/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* connect() and sendto(): decide, and redirect what the proxies serve. */
#ifndef EGRESSD_SOCK_ADDR_H
#define EGRESSD_SOCK_ADDR_H

#include "publish.h"

/* Return values of cgroup hooks. */
#define REFUSE 0
#define PROCEED 1

/* What a step of the decision comes to when it is for the next one to say. */
#define UNDECIDED (-1)

/* A connect() or sendto() that is decided about. No helper is given an address in
 * here, for then the compiler could not keep the fields in registers. */
struct attempt {
	struct bpf_sock_addr *ctx;
	bool v6, connect;
	struct flow *f;          /* where to */
	struct egd_config *cfg;  /* may be NULL */
	struct egd_workload *wl; /* who */
	__u64 cgroup;
	struct egd_socket *st; /* NULL: nothing was decided about the socket */
	struct egd_addr_val v; /* what the tables say; DNS is EGD_PROXY */
	bool dns;
	bool foreign;            /* of another network namespace than the listeners' */
	__u32 device;            /* see device_of */
	struct egd_endpoint *to; /* where to instead: an endpoint, or a listener's address */
};

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

static __always_inline void write_addr(struct bpf_sock_addr *ctx, bool v6, const __u8 *addr,
				       __u16 port)
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
static __always_inline __u32 device_of(const struct attempt *a)
{
	__u32 device = a->ctx->sk->bound_dev_if;

	/* TCP has no unicast interface (ip(7) IP_UNICAST_IF). */
	if (!device && a->st && a->f->proto == IPPROTO_UDP)
		device = is_mapped(a->f->addr) ? a->st->unicast4 : a->st->unicast6;
	return device == LOOPBACK_IFINDEX ? 0 : device;
}

/* Where egressd's listener is for a socket, in the family that was dialled: on
 * loopback; at an address of the device that the socket is bound to; at the gate for
 * a socket of another network namespace, which has another loopback. Returns why
 * there is none, or 0. */
static __always_inline __u8 find_listener(const struct attempt *a)
{
	__u32 device = a->device; /* see struct attempt */
	const struct egd_device *d;
	__u8 *addr = a->to->addr;
	const __u8 *gate;
	__u32 *w = (__u32 *)addr;

	if (a->foreign) {
		gate = gate_for(a->cfg, a->f);
		if (!gate)
			return EGD_R_NETNS;
		copy_addr(addr, gate);
	} else if (device) {
		d = bpf_map_lookup_elem(&egd_devices, &device);
		if (!d)
			return EGD_R_DEVICE;
		copy_addr(addr, is_mapped(a->f->addr) ? d->addr4 : d->addr6);
		if (!(w[0] | w[1] | w[2] | w[3]))
			return EGD_R_DEVICE;
	} else if (is_mapped(a->f->addr)) {
		set_mapped(addr, bpf_htonl(0x7f000001));
	} else {
		__builtin_memset(addr, 0, 16);
		addr[15] = 1;
	}
	return EGD_R_NONE;
}

/* Finds the listener, its address in to. Returns why a flow cannot be served there,
 * or 0. */
static __always_inline __u8 find_proxy_listener(const struct attempt *a)
{
	__u32 kind = a->dns ? EGD_L_DNS_TCP : EGD_L_PROXY;
	bool udp = a->f->proto == IPPROTO_UDP;
	__u8 reason = find_listener(a);

	if (reason)
		return reason;
	/* A socket that is in the table already may go on asking. */
	if (over_quota(a->wl->id) && !(udp && a->st && a->st->published[0].port))
		return EGD_R_QUOTA;
	if (!udp && !a->foreign && over_conn_quota(a->cfg, a->wl->id))
		return EGD_R_QUOTA;
	if (udp)
		kind = EGD_L_DNS_UDP;
	/* All of egressd's sockets live as long as those on loopback. */
	return is_listening(listener_key(a->f, a->foreign, kind)) ? EGD_R_NONE : EGD_R_LISTENER;
}

/* Who calls. */
static __always_inline void fill_caller(struct egd_origin *o, const struct attempt *a)
{
	o->created = bpf_ktime_get_ns();
	o->cookie = bpf_get_socket_cookie(a->ctx);
	o->cgroup = a->cgroup;
	o->home = a->wl->home;
	o->netns = bpf_get_netns_cookie(a->ctx);
	o->mode = a->wl->mode;
	o->workload = a->wl->id;
	o->policy = a->wl->policy;
	o->pid = bpf_get_current_pid_tgid() >> 32;
	o->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(o->comm, sizeof(o->comm));
}

/* Who calls, and what the socket is connected to from now on. */
static __always_inline void fill_origin(struct egd_origin *o, const struct attempt *a)
{
	fill_caller(o, a);
	__builtin_memcpy(o->dst, a->f->addr, 16);
	o->dport = a->f->port;
	o->family = a->f->family;
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
__noinline __u32 egd_dns_slot(struct egd_socket *st, const struct flow *f, bool connect)
{
	__u32 slot;
	int i;

	if (!st || !f)
		return 0;
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

/* The socket sends to a peer because a rule lets it. */
static __always_inline void note_dialled(struct bpf_sock_addr *ctx, const struct flow *f)
{
	egd_add_dialled(bpf_sk_storage_get(&egd_recent, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE),
			f);
}

/* The socket is connected anew: nothing that was decided before counts. */
static __always_inline void clear_decision(struct egd_socket *st)
{
	forget_peer(st);
	st->redirected = 0;
	st->udp_blocked = 0;
	st->watched = 0;
	st->proved = 0;
	st->reading = 0;
	st->unjudged = 0;
	st->unread = 0;
	st->local = 0;
	st->blocked = 0;
}

/* Whose datagrams they are that the socket sends, for skb_egress, which decides
 * about each by its own destination: what sendto() was let do says nothing about
 * the next datagram, and changes nothing of what connect() decided. */
static __always_inline void note_caller(struct egd_socket *st, const struct egd_workload *wl)
{
	if (st && st->origin.home != wl->home)
		st->origin.home = wl->home;
}

/* A refused connect() is what an app takes for "nobody there"; a refused datagram
 * keeps the kernel's own EPERM. */
static __always_inline int fail(bool connect)
{
	if (connect)
		bpf_set_retval(-ECONNREFUSED);
	return REFUSE;
}

/* Refuses what cannot be let pass in audit mode either. */
static __always_inline int refuse(const struct attempt *a, __u8 reason)
{
	egd_deny_call(a->f, a->wl, a->cgroup, EGD_ENFORCE, reason);
	return fail(a->connect);
}

/* The socket's storage, made if need be; NULL: there is no memory for it. */
static __always_inline struct egd_socket *make_storage(const struct attempt *a)
{
	return bpf_sk_storage_get(&egd_sockets, a->ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

/* A parser for the ClientHello; false: there is no memory for it. */
static __always_inline bool make_hello(const struct attempt *a)
{
	struct egd_hello *h =
		bpf_sk_storage_get(&egd_hellos, a->ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!h)
		return false;
	/* It may be of an earlier connect(). A hello begins with the handshake type. */
	__builtin_memset(h, 0, sizeof(*h));
	h->need = 1;
	return true;
}

/* The connection goes straight to its destination or to the endpoint that was
 * chosen for it, and is watched there. */
static __always_inline int connect_direct(const struct attempt *a)
{
	struct egd_socket *st = make_storage(a);

	if (!st || (a->v.verdict == EGD_INSPECT && !make_hello(a)))
		return refuse(a, EGD_R_STORAGE);
	clear_decision(st);
	fill_origin(&st->origin, a);
	if (!set_peer(st, a->f, &a->v, a->to))
		return refuse(a, EGD_R_MAP_FULL);
	if (st->rewritten)
		write_addr(a->ctx, a->v6, a->to->addr, a->to->port);
	st->verdict = a->v.verdict;
	st->epoch = a->cfg->epoch;
	st->watched = 1;
	if (a->v.verdict == EGD_DIRECT) {
		count(EGD_C_DIRECT);
		report_allowed(st, NULL, a->f->proto);
	}
	return PROCEED;
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
static __always_inline int let_pass(const struct attempt *a)
{
	struct egd_socket *st = a->st;

	if (a->f->proto != IPPROTO_TCP) {
		if (a->connect && st)
			clear_decision(st);
		note_caller(st, a->wl);
		return PROCEED;
	}
	st = make_storage(a);
	if (!st) /* of two wrongs, breaking what is not enforced is the greater */
		return PROCEED;
	clear_decision(st);
	fill_origin(&st->origin, a);
	set_unjudged(st, a->f);
	st->epoch = a->cfg ? a->cfg->epoch : 0;
	st->unjudged = 1;
	st->unread = a->wl->mode == EGD_AUDIT;
	st->watched = 1;
	return PROCEED;
}

/* What goes to the node itself is not judged: by loopback, or to another address of
 * its own. What is let pass as that has to stay there, which skb_egress sees to. */
static __always_inline int pass_local(const struct attempt *a, bool own)
{
	struct egd_socket *st = a->st;

	count(EGD_C_PASS_LOOPBACK);
	if (a->f->proto == IPPROTO_TCP || own)
		st = make_storage(a);
	if (!st)
		return a->f->proto == IPPROTO_TCP || own ? refuse(a, EGD_R_STORAGE) : PROCEED;
	note_caller(st, a->wl);
	if (own) /* skb_egress asks whose namespace it is */
		st->origin.netns = bpf_get_netns_cookie(a->ctx);
	if (!a->connect)
		return PROCEED;
	clear_decision(st);
	if (own)
		fill_origin(&st->origin, a);
	set_unjudged(st, a->f);
	st->local = 1;
	return PROCEED;
}

/* What no policy is asked about because of who calls, and what was decided before. */
static __always_inline int exempt(const struct attempt *a)
{
	__u8 flags = a->wl->flags;

	if (flags & EGD_WL_EXEMPT) {
		count(flags & EGD_WL_OUTSIDE ? EGD_C_PASS_OUTSIDE : EGD_C_PASS_OWN);
		if (a->connect && a->st)
			clear_decision(a->st);
		note_caller(a->st, a->wl);
		return PROCEED;
	}
	if (a->wl->mode == EGD_OFF) {
		count(EGD_C_PASS_OWN);
		return is_loopback(a->f->addr) ? pass_local(a, false) : let_pass(a);
	}
	if (!a->cfg || !a->cfg->ready)
		return refuse(a, EGD_R_NO_CONFIG);
	/* Sending on a connected IPv6 socket whose peer is v4-mapped comes through
	 * sendmsg4 with the address that connect() was rewritten to
	 * (udpv6_sendmsg hands over to udp_sendmsg with an address). */
	if (!a->connect && is_peer(a->st, a->f) && egd_leads_to(a->st, a->f, a->wl->policy))
		return PROCEED;
	return UNDECIDED;
}

/* What the tables say, in v; and what goes to the node itself, about which nobody
 * asks them. */
static __always_inline int exempt_local(struct attempt *a)
{
	bool at_gate = is_gate(a->cfg, a->f), loopback = is_loopback(a->f->addr), own = false;
	bool transport = a->f->proto == IPPROTO_UDP || a->f->proto == IPPROTO_TCP;

	a->dns = a->f->port == PORT_DNS && transport;
	a->foreign = bpf_get_netns_cookie(a->ctx) != a->cfg->netns_cookie;
	a->v.verdict = EGD_PROXY;
	if (!a->dns && !at_gate && !loopback) {
		a->v = workload_verdict(a->f, a->wl);
		/* What the policy says of an address of the node goes first: NAT may
		 * stand there, which leads away. */
		own = a->v.verdict == EGD_DENY && !a->foreign && is_own(a->f->addr);
		/* Nor does anything that is open lead to egressd itself: the node has
		 * addresses inside of the cluster, which pods reach as well. */
		if (a->v.verdict != EGD_DENY && transport && is_own_port(a->f) &&
		    is_own(a->f->addr))
			return refuse(a, EGD_R_OWN_PORT);
	}
	if (a->dns || !transport || !(at_gate || own || loopback))
		return UNDECIDED;
	/* As above: a connected v4-mapped socket sends to its DNS listener. */
	if (!a->connect && a->st && a->st->redirected && a->f->port == a->cfg->dns_port[0])
		return PROCEED;
	/* A listener serves only what was redirected to it, and the gate is for
	 * nothing else. */
	if (at_gate || is_own_port(a->f))
		return refuse(a, EGD_R_OWN_PORT);
	return pass_local(a, own);
}

/* Why the flow is denied, or EGD_R_NONE: then it goes the way of v, and to is filled. */
static __always_inline __u8 classify(struct attempt *a)
{
	bool udp = a->f->proto == IPPROTO_UDP;
	union val u;

	a->device = a->foreign ? 0 : device_of(a);
	if (!udp && a->f->proto != IPPROTO_TCP)
		return EGD_R_SOCKET_TYPE;
	if (a->v.verdict == EGD_DENY)
		return EGD_R_NO_RULE;
	if (udp && !a->dns && a->v.verdict != EGD_DIRECT)
		return EGD_R_NO_RULE; /* only TCP has a forwarding core or a hello */
	if (a->v.verdict == EGD_PROXY)
		return find_proxy_listener(a);
	if (!a->v.slots)
		return EGD_R_NONE;
	if (a->connect)
		return choose(a->f, &a->v, a->to);
	u.v = a->v;
	return egd_choose_again(
		bpf_sk_storage_get(&egd_rewrites, a->ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE),
		a->st, a->f, u.raw, a->to);
}

/* UDP without a rule is let pass all the same where nothing is sent by that, and
 * where it answers somebody. */
static __always_inline int udp_exception(const struct attempt *a)
{
	struct egd_socket *st;

	if (a->connect && (a->wl->mode == EGD_AUDIT || is_known(a->f, a->wl->policy))) {
		/* getaddrinfo(3) connects a UDP socket to each answer to learn
		 * the source address that the kernel would use (RFC 6724), and
		 * sends nothing. Let it ask; skb_egress refuses what it sends. */
		st = make_storage(a);
		if (!st)
			return refuse(a, EGD_R_STORAGE);
		clear_decision(st);
		fill_origin(&st->origin, a);
		st->udp_blocked = 1;
		return PROCEED;
	}
	if (!a->connect && egd_is_reply(bpf_sk_storage_get(&egd_recent, a->ctx->sk, 0, 0),
					bpf_get_socket_cookie(a->ctx), a->f)) {
		count(EGD_C_REPLY);
		note_caller(a->st, a->wl);
		return PROCEED;
	}
	return UNDECIDED;
}

/* EGD_DIRECT and EGD_INSPECT. */
static __always_inline int pass(const struct attempt *a)
{
	struct egd_socket *st;

	if (a->f->proto == IPPROTO_UDP)
		note_dialled(a->ctx, a->f);
	if (a->connect)
		return connect_direct(a);
	/* skb_egress decides again, by the caller's policy. */
	st = make_storage(a);
	if (!st)
		return refuse(a, EGD_R_STORAGE);
	note_caller(st, a->wl);
	if (a->v.slots)
		write_addr(a->ctx, a->v6, a->to->addr, a->to->port);
	count(EGD_C_DIRECT);
	return PROCEED;
}

/* EGD_PROXY: to egressd's listener. */
static __always_inline int redirect(const struct attempt *a)
{
	bool tcp = a->f->proto == IPPROTO_TCP;
	struct egd_socket *st = make_storage(a);
	__u16 port;

	if (!st)
		return refuse(a, EGD_R_STORAGE);
	if (a->connect) {
		clear_decision(st);
		fill_origin(&st->origin, a);
		st->verdict = EGD_PROXY;
		st->redirected = 1;
	} else {
		fill_caller(&st->origin, a);
	}
	st->epoch = a->cfg->epoch;
	st->origin.ifindex = a->device;
	count(a->dns ? EGD_C_DNS : EGD_C_PROXY);
	if (tcp)
		port = a->dns ? a->cfg->dns_tcp_port : a->cfg->proxy_port;
	else
		port = a->cfg->dns_port[egd_dns_slot(st, a->f, a->connect) & (EGD_DNS_SLOTS - 1)];
	if (a->connect) { /* it is connected there */
		__builtin_memcpy(st->peer, a->to->addr, 16);
		st->peer_port = port;
	}
	write_addr(a->ctx, a->v6, a->to->addr, port);
	return PROCEED;
}

/* Does what was decided. */
static __always_inline int act(const struct attempt *a, __u8 reason)
{
	int excused;

	if (reason == EGD_R_NO_RULE && a->f->proto == IPPROTO_UDP) {
		excused = udp_exception(a);
		if (excused != UNDECIDED)
			return excused;
	}
	if (reason != EGD_R_NONE && egd_deny_call(a->f, a->wl, a->cgroup, a->wl->mode, reason))
		return fail(a->connect);
	if (reason != EGD_R_NONE)
		return let_pass(a);
	return a->v.verdict == EGD_PROXY ? redirect(a) : pass(a);
}

/* The one decision for connect4/6 and sendmsg4/6: read, exempt, classify, act. */
static __always_inline int dial(struct bpf_sock_addr *ctx, bool v6, bool connect)
{
	struct flow f = {};
	struct egd_endpoint to = {};
	struct attempt a = { .ctx = ctx, .v6 = v6, .connect = connect, .f = &f, .to = &to };
	int done;

	/* The kernel refuses another family than the socket's behind this hook.
	 * Nothing has been decided then, so nothing may be noted. */
	if (connect && ctx->user_family != (v6 ? AF_INET6 : AF_INET)) {
		bpf_set_retval(-EAFNOSUPPORT);
		return REFUSE;
	}
	read_flow(ctx, v6, &f);
	a.cfg = get_config();
	a.wl = find_workload(&a.cgroup);
	if (!a.wl)
		return refuse(&a, EGD_R_NO_WORKLOAD);
	a.st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, 0);
	done = exempt(&a);
	if (done == UNDECIDED)
		done = exempt_local(&a);
	if (done != UNDECIDED)
		return done;
	return act(&a, classify(&a));
}

#endif
