/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is counted and reported to user space: the one place where events are made, and
 * where audit mode makes a report of a denial. */
#ifndef EGRESSD_REPORT_H
#define EGRESSD_REPORT_H

#include "common.h"

/* Counts a denial and says whether it is carried out. In audit mode it is only
 * reported, as one that would be. */
static __always_inline bool enforced(__u8 mode, __u8 reason)
{
	bool audit = mode == EGD_AUDIT;

	count(audit ? EGD_C_AUDIT : reason);
	return !audit;
}

/* An empty event with its time; verdict is of what is not denied. NULL, and counted,
 * when the ring is full. */
static __always_inline struct egd_event *new_event(__u8 kind, __u8 verdict, __u8 reason)
{
	struct egd_event *e = bpf_ringbuf_reserve(&egd_events, sizeof(*e), 0);

	if (!e) {
		count(EGD_C_EVENT_LOST);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time = bpf_ktime_get_ns();
	e->kind = kind;
	e->reason = reason;
	e->verdict = reason == EGD_R_NONE ? verdict : EGD_DENY;
	return e;
}

static __always_inline void set_target(struct egd_event *e, const __u8 *addr, __u16 port,
				       __u8 family)
{
	copy_addr(e->dst, addr);
	e->dport = port;
	e->family = family;
}

static __always_inline void set_workload(struct egd_event *e, __u32 workload, __u32 policy)
{
	e->workload = workload;
	e->policy = policy;
}

static __always_inline void set_name(struct egd_event *e, const struct egd_hello *h)
{
	e->name_len = h->key.len;
	__builtin_memcpy(e->name, h->key.name, EGD_MAX_NAME);
}

/* Events that nobody waits for don't wake user space, which looks at the ring
 * by itself ten times a second: a wake-up for each connection would cost more
 * than all the rest. Unless the ring fills up. */
static __always_inline __u64 wakeup_flags(void)
{
	return bpf_ringbuf_query(&egd_events, BPF_RB_AVAIL_DATA) > EGD_EVENT_RING / 4 ?
		       0 :
		       BPF_RB_NO_WAKEUP;
}

/* An event about a socket, outside of its owner's context: who it was is in
 * the origin. NULL when the ring is full. */
static __always_inline struct egd_event *socket_event(const struct egd_socket *st, __u8 kind,
						      __u8 proto, __u8 reason)
{
	struct egd_event *e = new_event(kind, st->verdict, reason);

	if (!e)
		return NULL;
	set_target(e, st->origin.dst, st->origin.dport, st->origin.family);
	set_workload(e, st->origin.workload, st->origin.policy);
	e->proto = proto;
	e->cgroup = st->origin.cgroup;
	e->pid = st->origin.pid;
	e->uid = st->origin.uid;
	e->opened = st->origin.created;
	e->cookie = st->origin.cookie;
	e->netns = st->origin.netns;
	__builtin_memcpy(e->comm, st->origin.comm, sizeof(e->comm));
	if (st->rewritten) {
		__builtin_memcpy(e->peer, st->peer, 16);
		e->peer_port = st->peer_port;
	}
	return e;
}

/* A connection that may go on; with the name of its hello, if one was read. */
static __always_inline void report_allowed(const struct egd_socket *st, const struct egd_hello *h,
					   __u8 proto)
{
	struct egd_event *e = socket_event(st, EGD_E_DECISION, proto, EGD_R_NONE);

	if (!e)
		return;
	if (h)
		set_name(e, h);
	bpf_ringbuf_submit(e, wakeup_flags());
}

/* Whether one more denial of a workload may be reported now; if not it is counted as
 * a lost event. Denials of nobody share an account. */
static __always_inline bool may_report(__u32 id)
{
	__u32 now = bpf_ktime_get_ns() >> 24;
	struct egd_usage *u = bpf_map_lookup_elem(&egd_usage, &id);

	if (!u)
		return true;
	if (u->window != now) {
		u->window = now;
		u->told = 0;
	}
	if (u->told++ < EGD_MAX_REPORTS)
		return true;
	count(EGD_C_EVENT_LOST);
	return false;
}

/* A system call of the current task is denied: counts and reports it. 0: the mode is
 * audit, and the caller lets it pass. */
__noinline int egd_deny_call(const struct flow *f, const struct egd_workload *wl, __u64 cgroup,
			     __u8 mode, __u8 reason)
{
	bool deny = enforced(mode, reason);
	struct egd_event *e;

	if (!f || !may_report(wl ? wl->id : 0))
		return deny;
	e = new_event(EGD_E_DECISION, EGD_DENY, reason);
	if (!e)
		return deny;
	set_target(e, f->addr, f->port, f->family);
	if (wl)
		set_workload(e, wl->id, wl->policy);
	e->proto = f->proto;
	e->audit = !deny;
	e->cgroup = cgroup;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->uid = (__u32)bpf_get_current_uid_gid();
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return deny;
}

#endif
