/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A connect() or sendto(): what it is, who calls, where egressd listens for it, and what
 * is noted at its socket. */
#ifndef EGRESSD_ATTEMPT_H
#define EGRESSD_ATTEMPT_H

#include "publish.h"

/* Return values of cgroup hooks. */
#define REFUSE 0
#define PROCEED 1

/* What a step of the decision comes to when it is for the next one to say, and when
 * the call goes on with the address in to. */
#define UNDECIDED (-1)
#define REWRITE 2

/* A connect() or sendto() that is decided about. It has no pointers: functions that
 * the verifier reads once take its address, and would not believe them. */
struct attempt {
	struct flow f;          /* where to */
	struct egd_endpoint to; /* where to instead: an endpoint, or a listener's address */
	union val u;            /* what the tables say; DNS is EGD_PROXY */
	__u64 cgroup;
	__u32 device; /* see device_of */
	__u8 connect;
	__u8 dns;
	__u8 foreign; /* of another network namespace than the listeners' */
	__u8 pad;
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
static __always_inline __u32 device_of(struct bpf_sock_addr *ctx, const struct attempt *a,
				       const struct egd_socket *st)
{
	__u32 device = ctx->sk->bound_dev_if;

	/* TCP has no unicast interface (ip(7) IP_UNICAST_IF). */
	if (!device && st && a->f.proto == IPPROTO_UDP)
		device = is_mapped(a->f.addr) ? st->unicast4 : st->unicast6;
	return device == LOOPBACK_IFINDEX ? 0 : device;
}

/* Where egressd's listener is for a socket, in the family that was dialled: on
 * loopback; at an address of the device that the socket is bound to; at the gate for
 * a socket of another network namespace, which has another loopback. Returns why
 * there is none, or 0. */
static __always_inline __u8 find_listener(struct attempt *a, const struct egd_config *cfg)
{
	__u32 device = a->device; /* what an argument points to is no key before Linux 6.2 */
	const struct egd_device *d;
	__u8 *addr = a->to.addr;
	const __u8 *gate;
	__u32 *w = (__u32 *)addr;

	if (a->foreign) {
		gate = gate_for(cfg, &a->f);
		if (!gate)
			return EGD_R_NETNS;
		copy_addr(addr, gate);
	} else if (device) {
		d = bpf_map_lookup_elem(&egd_devices, &device);
		if (!d)
			return EGD_R_DEVICE;
		copy_addr(addr, is_mapped(a->f.addr) ? d->addr4 : d->addr6);
		if (!(w[0] | w[1] | w[2] | w[3]))
			return EGD_R_DEVICE;
	} else if (is_mapped(a->f.addr)) {
		set_mapped(addr, bpf_htonl(0x7f000001));
	} else {
		__builtin_memset(addr, 0, 16);
		addr[15] = 1;
	}
	return EGD_R_NONE;
}

/* Finds the listener, its address in to. Returns why a flow cannot be served there,
 * or 0. */
static __always_inline __u8 find_proxy_listener(struct attempt *a, const struct egd_config *cfg,
						const struct egd_socket *st, __u32 workload)
{
	__u32 kind = a->dns ? EGD_L_DNS_TCP : EGD_L_PROXY;
	bool udp = a->f.proto == IPPROTO_UDP;
	__u8 reason = find_listener(a, cfg);

	if (reason)
		return reason;
	/* A socket that is in the table already may go on asking. */
	if (over_quota(workload) && !(udp && st && st->published[0].port))
		return EGD_R_QUOTA;
	if (!udp && !a->foreign && over_conn_quota(cfg, workload))
		return EGD_R_QUOTA;
	if (udp)
		kind = EGD_L_DNS_UDP;
	/* All of egressd's sockets live as long as those on loopback. */
	return is_listening(listener_key(&a->f, a->foreign, kind)) ? EGD_R_NONE : EGD_R_LISTENER;
}

/* Who calls. */
static __always_inline void fill_caller(struct egd_origin *o, struct bpf_sock_addr *ctx,
					const struct attempt *a, const struct egd_workload *wl)
{
	o->created = bpf_ktime_get_ns();
	o->cookie = bpf_get_socket_cookie(ctx);
	o->cgroup = a->cgroup;
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
					const struct attempt *a, const struct egd_workload *wl)
{
	fill_caller(o, ctx, a, wl);
	__builtin_memcpy(o->dst, a->f.addr, 16);
	o->dport = a->f.port;
	o->family = a->f.family;
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
	add_dialled(bpf_sk_storage_get(&egd_recent, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE), f);
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
static __always_inline int refuse(const struct attempt *a, const struct egd_workload *wl,
				  bool connect, __u8 reason)
{
	egd_deny_call(&a->f, wl, a->cgroup, EGD_ENFORCE, reason);
	return fail(connect);
}

/* The socket's storage, made if need be; NULL: there is no memory for it. */
static __always_inline struct egd_socket *make_storage(struct bpf_sock_addr *ctx)
{
	return bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
}

/* The socket's storage; NULL: nothing was decided about the socket. */
static __always_inline struct egd_socket *find_storage(struct bpf_sock_addr *ctx)
{
	return bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, 0);
}

/* A parser for the ClientHello; false: there is no memory for it. */
static __always_inline bool make_hello(struct bpf_sock_addr *ctx)
{
	struct egd_hello *h =
		bpf_sk_storage_get(&egd_hellos, ctx->sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!h)
		return false;
	/* It may be of an earlier connect(). A hello begins with the handshake type. */
	__builtin_memset(h, 0, sizeof(*h));
	h->need = 1;
	return true;
}

#endif
