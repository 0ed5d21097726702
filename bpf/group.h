/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Multicast groups: who joins one makes the kernel tell the link (IGMP, RFC 3376;
 * MLD, RFC 3810), in packets that are no socket's, with 3 bytes of an IPv4 group or
 * 14 of an IPv6 one, and the addresses of a source filter, as data. No privilege
 * is needed. */
#ifndef EGRESSD_GROUP_H
#define EGRESSD_GROUP_H

#include "common.h"
#include "sock_addr.h"

#define SOL_IP 0
#define SOL_IPV6 41

#define IP_ADD_MEMBERSHIP 35
#define IPV6_JOIN_GROUP 20
#define IPV6_JOIN_ANYCAST 27

/* Whether an option changes the memberships of its socket: 35 joins; 36 to 41
 * leave, and filter sources; 42 to 48 do the same for both families (uapi/linux/in.h,
 * in6.h). */
static __always_inline bool changes_membership(__u32 level, __u32 option)
{
	if (level == SOL_IPV6 && (option == IPV6_JOIN_GROUP || option == IPV6_JOIN_ANYCAST))
		return true;
	return option >= (level == SOL_IP ? IP_ADD_MEMBERSHIP : 42) && option <= 48 &&
	       option != 36 && option != 45; /* leaving says what joining said */
}

/* Groups that everybody's software joins: mDNS (RFC 6762), LLMNR (RFC 4795), SSDP,
 * all nodes. */
static __always_inline bool is_common_group(const __u8 *addr)
{
	const __u32 *w = (const __u32 *)addr;

	if (is_mapped(addr))
		return w[3] == bpf_htonl(0xe00000fb) || w[3] == bpf_htonl(0xe00000fc) ||
		       w[3] == bpf_htonl(0xeffffffa) || w[3] == bpf_htonl(0xe0000001);
	if ((w[0] != bpf_htonl(0xff020000) && w[0] != bpf_htonl(0xff050000)) || w[1] || w[2])
		return false;
	return w[3] == bpf_htonl(0xfb) || w[3] == bpf_htonl(0x10003) || w[3] == bpf_htonl(0xc) ||
	       w[3] == bpf_htonl(1);
}

/* The group of a plain join, the only form that is let pass: the others carry
 * more, and have another layout for 32-bit programs. */
static __always_inline bool read_group(struct bpf_sockopt *ctx, struct flow *f)
{
	__u8 *value = ctx->optval;

	if (ctx->level == SOL_IP && ctx->optname == IP_ADD_MEMBERSHIP) {
		if (value + 4 > (__u8 *)ctx->optval_end)
			return false;
		set_mapped(f->addr, *(__u32 *)value);
		f->family = AF_INET;
		return true;
	}
	if (ctx->level != SOL_IPV6 || ctx->optname != IPV6_JOIN_GROUP ||
	    value + 16 > (__u8 *)ctx->optval_end)
		return false;
	__builtin_memcpy(f->addr, value, 16);
	f->family = AF_INET6;
	return true;
}

#define IP_UNICAST_IF 50
#define IPV6_UNICAST_IF 76

/* The interface that the socket's datagrams leave by, which nothing else tells the
 * hooks of connect() and sendto(). */
static __always_inline void note_unicast_if(struct bpf_sockopt *ctx)
{
	bool v6 = ctx->level == SOL_IPV6 && ctx->optname == IPV6_UNICAST_IF;
	__u8 *value = ctx->optval;
	struct egd_socket *st;
	__u32 device;

	if (!v6 && !(ctx->level == SOL_IP && ctx->optname == IP_UNICAST_IF))
		return;
	if (value + 4 > (__u8 *)ctx->optval_end || !ctx->sk)
		return;
	device = bpf_ntohl(*(__u32 *)value);
	st = bpf_sk_storage_get(&egd_sockets, ctx->sk, 0, device ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (st && v6)
		st->unicast6 = device;
	else if (st)
		st->unicast4 = device;
}

static __always_inline int join_group(struct bpf_sockopt *ctx)
{
	struct egd_workload *wl;
	struct flow f = {};
	__u64 cgroup = 0;
	bool plain;

	if ((ctx->level != SOL_IP && ctx->level != SOL_IPV6) ||
	    !changes_membership(ctx->level, ctx->optname))
		return PROCEED;
	wl = find_workload(&cgroup);
	if (wl && ((wl->flags & EGD_WL_EXEMPT) || wl->mode == EGD_OFF))
		return PROCEED;
	plain = read_group(ctx, &f);
	if (plain && (is_common_group(f.addr) || (wl && is_known(&f, wl->policy))))
		return PROCEED;
	if (egd_deny_call(&f, wl, cgroup, wl ? wl->mode : EGD_ENFORCE, EGD_R_GROUP))
		return REFUSE;
	return PROCEED;
}

#endif
