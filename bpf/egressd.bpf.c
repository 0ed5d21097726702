//go:build ignore
// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* The programs, one per hook; each v4 hook stands beside its v6 twin. */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

#include "restore.h"
#include "skb_egress.h"
#include "group.h"
#include "tc.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Keeps the enums in BTF, so that bpf2go can generate them. */
const enum egd_verdict egd_keep_verdict = EGD_DENY;
const enum egd_mode egd_keep_mode = EGD_ENFORCE;
const enum egd_reason egd_keep_reason = EGD_R_NONE;
const enum egd_counter egd_keep_counter = EGD_C_PASS_LOOPBACK;
const enum egd_way egd_keep_way = EGD_BY_LOOPBACK;
const enum egd_listener egd_keep_listener = EGD_L_PROXY;
const enum egd_place egd_keep_place = EGD_LOOPBACK4;
const enum egd_size egd_keep_size = EGD_DNS_SLOTS;
const enum egd_slot egd_keep_slot = EGD_MEMBER;
const enum egd_mark egd_keep_mark = EGD_MARK;
const enum egd_workload_flag egd_keep_workload_flag = EGD_WL_EXEMPT;
const enum egd_read egd_keep_read = EGD_READS_CAPTURED;
const enum egd_beside_what egd_keep_beside_what = EGD_BESIDE_CAPTURED;
const enum egd_iface_flag egd_keep_iface_flag = EGD_IF_L3;
const enum egd_flow_flag egd_keep_flow_flag = EGD_F_INBOUND;
const enum egd_heard_flag egd_keep_heard_flag = EGD_H_SYNCED;
const enum egd_event_kind egd_keep_event_kind = EGD_E_DECISION;
const enum egd_first egd_keep_first = EGD_FIRST_OTHER;
const struct egd_event *const egd_keep_event = NULL;

SEC("cgroup/connect4")
int egd_connect4(struct bpf_sock_addr *ctx)
{
	return dial(ctx, false, true);
}

SEC("cgroup/connect6")
int egd_connect6(struct bpf_sock_addr *ctx)
{
	return dial(ctx, true, true);
}

SEC("cgroup/sendmsg4")
int egd_sendmsg4(struct bpf_sock_addr *ctx)
{
	return dial(ctx, false, false);
}

SEC("cgroup/sendmsg6")
int egd_sendmsg6(struct bpf_sock_addr *ctx)
{
	return dial(ctx, true, false);
}

SEC("cgroup/recvmsg4")
int egd_recvmsg4(struct bpf_sock_addr *ctx)
{
	return restore_source(ctx, false);
}

SEC("cgroup/recvmsg6")
int egd_recvmsg6(struct bpf_sock_addr *ctx)
{
	return restore_source(ctx, true);
}

SEC("cgroup/getpeername4")
int egd_peername4(struct bpf_sock_addr *ctx)
{
	return restore_peer(ctx, false);
}

SEC("cgroup/getpeername6")
int egd_peername6(struct bpf_sock_addr *ctx)
{
	return restore_peer(ctx, true);
}

SEC("cgroup/bind4")
int egd_bind4(struct bpf_sock_addr *ctx)
{
	return check_bind(ctx, false);
}

SEC("cgroup/bind6")
int egd_bind6(struct bpf_sock_addr *ctx)
{
	return check_bind(ctx, true);
}

/* A socket that would be refused in enforce mode: skb_egress silences it as soon
 * as the workload's mode is that. */
static __always_inline int note_other(struct bpf_sock *ctx, const struct egd_workload *wl)
{
	struct egd_socket *st =
		bpf_sk_storage_get(&egd_sockets, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!st)
		return REFUSE;
	st->other = 1;
	st->origin.home = wl->home;
	return PROCEED;
}

/* Sockets whose packets no rule can speak about are refused at birth: raw and
 * ping sockets, SCTP, UDP-Lite. MPTCP gets the errno that makes a client fall
 * back to TCP: its subflows would not carry the socket storage of the socket
 * that was connected. */
SEC("cgroup/sock_create")
int egd_sock_create(struct bpf_sock *ctx)
{
	struct egd_workload *wl;
	struct flow f = {};
	__u64 cgroup = 0;

	if (ctx->type != SOCK_RAW &&
	    (ctx->protocol == 0 || ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_UDP))
		return PROCEED;
	wl = find_workload(&cgroup);
	if (wl && (wl->flags & EGD_WL_EXEMPT))
		return PROCEED;
	if (wl && wl->mode == EGD_OFF)
		return note_other(ctx, wl);
	if (ctx->protocol == 262) { /* IPPROTO_MPTCP */
		count(EGD_R_SOCKET_TYPE);
		bpf_set_retval(-EPROTONOSUPPORT);
		return REFUSE;
	}
	f.family = (__u8)ctx->family;
	f.proto = (__u8)ctx->protocol;
	if (egd_deny_call(&f, wl, cgroup, wl ? wl->mode : EGD_ENFORCE, EGD_R_SOCKET_TYPE) || !wl)
		return REFUSE;
	return note_other(ctx, wl);
}

SEC("cgroup/sock_release")
int egd_sock_release(struct bpf_sock *ctx)
{
	struct egd_socket *st;
	int i;

	st = bpf_sk_storage_get(&egd_sockets, ctx, 0, 0);
	if (!st)
		return PROCEED;
	/* What was sent may still be on its way; then sock_ops sees the end. */
	if (ctx->protocol != IPPROTO_TCP || ctx->state == STATE_CLOSE)
		forget_dialled(st);
	if (ctx->protocol != IPPROTO_UDP)
		return PROCEED;
	for (i = 0; i < EGD_DNS_SLOTS; i++)
		if (st->published[i].port)
			unpublish(st, i);
	return PROCEED;
}

SEC("cgroup/setsockopt")
int egd_setsockopt(struct bpf_sockopt *ctx)
{
	note_unicast_if(ctx);
	return join_group(ctx);
}

SEC("sockops")
int egd_sock_ops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_tcp_connect(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_tcp_close(ctx);
		break;
	}
	return PROCEED;
}

SEC("cgroup_skb/egress")
int egd_skb_egress(struct __sk_buff *skb)
{
	return egress(skb);
}

SEC("tc")
int egd_tc_from(struct __sk_buff *skb)
{
	return from_workload(skb);
}

SEC("tc")
int egd_tc_to(struct __sk_buff *skb)
{
	if (!follow_frame(skb) || uplink(skb) == TC_DROP)
		return TC_DROP;
	return to_workload(skb);
}

SEC("tc")
int egd_tc_uplink(struct __sk_buff *skb)
{
	return follow_frame(skb) ? uplink(skb) : TC_DROP;
}

/* At the node's end of a veth, where frames still have the socket that sent them in
 * the other network namespace. */
SEC("tc")
int egd_tc_frames(struct __sk_buff *skb)
{
	return frame(skb);
}
