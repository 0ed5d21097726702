/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every packet of every captured socket: the backstop behind the hooks of connect()
 * and sendto(). */
#ifndef EGRESSD_SKB_EGRESS_H
#define EGRESSD_SKB_EGRESS_H

#include "inspect.h"

/* A packet that the hooks of connect() and sendto() take for loopback's and that
 * is not (RFC 1812 section 5.3.7): one that leaves by another device, which
 * SO_BINDTODEVICE chooses, reaches the next hop. */
static __always_inline bool is_martian(struct __sk_buff *skb, const __u8 *dst)
{
	return skb->ifindex != LOOPBACK_IFINDEX && is_loopback(dst);
}

/* A datagram over loopback that bears a foreign source (IPV6_FREEBIND, no
 * privilege; IP_TRANSPARENT) would make that stranger a peer who may be
 * answered; the node's own addresses are sources there of what goes to
 * themselves. */
static __always_inline bool is_forged(struct __sk_buff *skb, const struct packet *p, bool own_netns)
{
	return skb->ifindex == LOOPBACK_IFINDEX && !is_loopback(p->src) &&
	       !same_addr(p->src, p->to.addr) && !(own_netns && is_own(p->src));
}

/* A packet that no hook decided about. It is dropped, and reported once for a
 * socket: who sends one may send millions. */
__noinline int egd_drop(struct __sk_buff *skb, __u8 reason)
{
	struct bpf_sock *sk = full_socket(skb);
	struct egd_workload *wl;
	struct packet p = {};
	struct egd_socket *st;
	struct egd_event *e;

	count(reason);
	if (!sk)
		return 0;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st || st->drop_reported)
		return 0;
	wl = find_skb_workload(skb);
	e = socket_event(st, EGD_E_DECISION, sk->protocol, reason);
	if (!e)
		return 0;
	if (wl)
		set_workload(e, wl->id, wl->policy);
	e->cgroup = bpf_skb_cgroup_id(skb);
	e->cookie = bpf_get_socket_cookie(skb);
	read_own(skb, &p);
	/* Behind extension headers there is no port to be found. */
	if (p.to.proto == sk->protocol)
		bpf_skb_load_bytes(skb, p.l4 + 2, &p.to.port, 2);
	set_target(e, p.to.addr, p.to.port, p.to.family);
	bpf_ringbuf_submit(e, 0);
	st->drop_reported = 1;
	return 0;
}

/* What the hook returns: the verifier knows nothing of what a function returns. */
static __always_inline int drop(struct __sk_buff *skb, __u8 reason)
{
	egd_drop(skb, reason);
	return 0;
}

/* Whether a connection is with the peer that connect() decided about. A program
 * of somebody else behind ours may have changed the address once more. */
static __always_inline bool at_peer(struct __sk_buff *skb, struct bpf_sock *sk,
				    const struct egd_socket *st)
{
	const __u32 *w = (const __u32 *)st->peer;

	/* Written by a version that did not note the listener. */
	if (!st->peer_port)
		return st->redirected;
	if (st->local && skb->ifindex == LOOPBACK_IFINDEX)
		return true; /* connect() to the unspecified address goes to an own one */
	if (sk->dst_port != st->peer_port)
		return false;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return is_mapped(st->peer) && sk->dst_ip4 == w[3];
	return sk->dst_ip6[0] == w[0] && sk->dst_ip6[1] == w[1] && sk->dst_ip6[2] == w[2] &&
	       sk->dst_ip6[3] == w[3];
}

/* Whether a packet that nobody decided about is a martian, or can't be read. */
__noinline int egd_strays(struct __sk_buff *skb)
{
	struct packet p = {};

	return read_own(skb, &p) || is_martian(skb, p.to.addr);
}

/* The SYN of a connection that connect() redirected; or (off) of one to the node itself
 * that leaves it: to a listener of egressd, by a device that the socket was bound to
 * where connect() could not see it; to an address that is not the node's any more, or
 * that NAT leads away. Nobody would answer, so it is ended. */
__noinline int egd_first_segment(struct __sk_buff *skb, bool off)
{
	struct bpf_sock *sk = full_socket(skb);
	struct packet p = {};
	struct egd_socket *st;

	if (!sk)
		return 0;
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (!st)
		return 0;
	if (!egd_read_segment(skb, &p))
		return drop(skb, EGD_R_OPTIONS);
	if (!off) {
		st->blocked = publish_tcp(st, &p);
		st->reported = 0;
		return st->blocked ? egd_stay_blocked(skb, st) != 0 : 1;
	}
	st->blocked = st->redirected ? EGD_R_DEVICE : EGD_R_MARTIAN;
	count(st->blocked);
	st->reported = egd_report_blocked(st, &p, NULL, IPPROTO_TCP, st->blocked);
	st->ring = this_ring();
	return 0;
}

/* A segment of a captured socket. */
static __always_inline int egress_tcp(struct __sk_buff *skb, struct bpf_sock *sk,
				      struct egd_socket *st)
{
	struct egd_config *cfg = get_config();
	bool local = skb->ifindex == LOOPBACK_IFINDEX;

	if (cfg && st && !local && st->origin.netns == cfg->netns_cookie &&
	    sk->state == STATE_SYN_SENT && (st->redirected || st->local) &&
	    !(st->local && is_loopback(st->peer)))
		return egd_first_segment(skb, true) != 0;

	/* A connection that is watched has been decided about by its address, and over
	 * loopback nothing is a martian: most packets need not be read. */
	if ((!st || !st->watched) && !local && egd_strays(skb))
		return drop(skb, EGD_R_MARTIAN);
	/* Who listens answers: the socket may have been connected before. */
	if (!st || sk->state == STATE_LISTEN)
		return 1;
	if ((st->watched || st->redirected || st->local) && !at_peer(skb, sk, st))
		return drop(skb, EGD_R_MARTIAN);
	if (st->local && !local)
		return drop(skb, EGD_R_MARTIAN);
	if (st->redirected && sk->state == STATE_SYN_SENT)
		return egd_first_segment(skb, false) != 0;
	if (!st->watched)
		return 1;
	return cfg ? check_watched(skb, st, cfg) : 0;
}

/* The server that a datagram to one of egressd's ports is for; NULL: it is no question
 * of this socket. */
static __always_inline const struct egd_dst *dns_server_of(const struct egd_socket *st, __u32 slot)
{
	const struct egd_dst *server;

	if (slot == EGD_DNS_SLOTS || !st)
		return NULL;
	server = &st->dns[slot & (EGD_DNS_SLOTS - 1)];
	return server->used ? server : NULL;
}

/* A datagram that goes where the rules decide. */
static __always_inline int judge_datagram(struct __sk_buff *skb, struct bpf_sock *sk,
					  struct egd_socket *st, const struct egd_config *cfg,
					  struct packet *p, bool gate)
{
	struct egd_workload *wl = sender_of(skb, st);
	const struct flow *to = &p->to;

	if (!wl)
		return drop(skb, EGD_R_NO_WORKLOAD);
	if ((wl->flags & EGD_WL_EXEMPT) || wl->mode == EGD_OFF)
		return 1;
	if (!cfg->ready)
		return drop(skb, EGD_R_NO_CONFIG);
	if (!gate && datagram_allowed(skb, sk, st, to, wl))
		return 1;
	if (st)
		st->origin.mode = wl->mode;
	if (st && st->udp_blocked && same_addr(st->origin.dst, to->addr) &&
	    st->origin.dport == to->port)
		return report_udp_blocked(st);
	if (wl->mode == EGD_AUDIT)
		return 1; /* sendto() said so already */
	/* A flow of a connected socket that was allowed when it was connected. */
	if (st && st->watched && st->peer_port == to->port && same_addr(st->peer, to->addr))
		return egd_block(st, p, NULL, IPPROTO_UDP, EGD_R_CHANGED) != 0;
	return drop(skb, EGD_R_NO_RULE);
}

/* A datagram of a captured socket; st is the socket's, or NULL. Returns 1 to pass, 0 to
 * drop. */
__noinline int egd_egress_udp(struct __sk_buff *skb, struct egd_socket *st)
{
	struct egd_config *cfg = get_config();
	struct bpf_sock *sk = full_socket(skb);
	const struct egd_dst *server;
	bool gate, own_netns, local;
	struct packet packet = {}, *p = &packet;
	__u32 slot;

	if (!sk)
		return 0;
	if (!cfg || !egd_read_datagram(skb, p))
		return drop(skb, cfg ? EGD_R_OPTIONS : EGD_R_NO_CONFIG);
	slot = egd_slot_of(p->to.port);
	server = dns_server_of(st, slot);
	if (is_martian(skb, p->to.addr)) {
		if (!server)
			return drop(skb, EGD_R_MARTIAN);
		/* A question to egressd that leaves by a device, which the socket was
		 * bound to where sendto() could not see it. */
		report_drop(st, server, EGD_R_DEVICE);
		return 0;
	}
	gate = is_gate(cfg, &p->to);
	own_netns = st && st->origin.netns == cfg->netns_cookie;
	local = !gate && (is_loopback(p->to.addr) ||
			  (own_netns && skb->ifindex == LOOPBACK_IFINDEX && is_own(p->to.addr)));
	if (gate || local) {
		/* A question may bear an address of the node as its source. */
		if (server)
			return egd_publish_udp(skb, st, p, slot) != 0;
		/* Connected to a listener that has another port now. */
		if (slot == EGD_DNS_SLOTS && st && st->redirected && st->peer_port == p->to.port)
			return drop(skb, EGD_R_LISTENER);
	}
	if (is_forged(skb, p, own_netns))
		return drop(skb, EGD_R_MARTIAN);
	return local ? 1 : judge_datagram(skb, sk, st, cfg, p, gate);
}

/* A packet of a socket that is refused at birth in enforce mode and was made in
 * another one: raw and ping sockets, SCTP. */
static __always_inline int egress_other(struct __sk_buff *skb, const struct egd_socket *st)
{
	struct egd_workload *wl;

	if (!st || !st->other) /* the kernel's own: neighbour discovery, IGMP */
		return 1;
	wl = sender_of(skb, st);
	if (!wl)
		return drop(skb, EGD_R_NO_WORKLOAD);
	if ((wl->flags & EGD_WL_EXEMPT) || wl->mode != EGD_ENFORCE)
		return 1;
	return drop(skb, EGD_R_SOCKET_TYPE);
}

/* Whether a packet comes from beside what is captured: from whoever used the socket
 * last, else from the socket's cgroup. A captured cgroup that user space has not heard
 * of yet is known by its id here all the same, for nothing gets here without a hook
 * that ran for the process that sends, and entered the id or refused (find_workload):
 * connect() and sendto() for TCP and UDP, a datagram has no destination otherwise;
 * sock_create for all others. Without one there are only the answers of listeners,
 * which pass from captured cgroups as well. */
static __always_inline bool is_outside(struct __sk_buff *skb, const struct egd_socket *st)
{
	struct egd_config *cfg = get_config();
	struct egd_workload *wl;

	if (!cfg || !cfg->above)
		return false;
	if (st && st->origin.home)
		wl = bpf_map_lookup_elem(&egd_workloads, &st->origin.home);
	else
		wl = find_skb_workload(skb);
	return wl && (wl->flags & EGD_WL_OUTSIDE);
}

/* Everything that a captured socket sends. */
static __always_inline int egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = full_socket(skb);
	struct egd_socket *st;
	__u32 proto, type;

	if (!sk)
		return 1;
	/* Read once: the verifier wants fields of sk at their offsets, not an
	 * address that the compiler made of one. */
	proto = sk->protocol;
	type = sk->type;
	asm volatile("" : "+r"(proto), "+r"(type));
	st = bpf_sk_storage_get(&egd_sockets, sk, 0, 0);
	if (is_outside(skb, st))
		return 1;
	if (type != SOCK_RAW && (proto == IPPROTO_TCP || proto == IPPROTO_UDP) && has_options(skb))
		return drop(skb, EGD_R_OPTIONS);
	if (st && st->blocked)
		return egd_stay_blocked(skb, st) != 0;
	if (type != SOCK_RAW && proto == IPPROTO_TCP)
		return egress_tcp(skb, sk, st);
	if (type != SOCK_RAW && proto == IPPROTO_UDP)
		return egd_egress_udp(skb, st) != 0;
	return egress_other(skb, st);
}

#endif
