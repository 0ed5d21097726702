/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What every hook needs: addresses, the workload, counters, and what the tables say. */
#ifndef EGRESSD_COMMON_H
#define EGRESSD_COMMON_H

#include "maps.h"
#include "container.h"

#define AF_INET 2
#define AF_INET6 10
#define ECONNREFUSED 111
#define EAFNOSUPPORT 97
#define EPROTONOSUPPORT 93
#define SOCK_RAW 3
#define PORT_DNS bpf_htons(53)
#define LOOPBACK_IFINDEX 1 /* in every network namespace */

/* cgroup v2 trees deeper than this find their workload by the levels above. */
#define MAX_CGROUP_LEVEL 24

/* A flow as a hook sees it, in the form of the maps' keys. */
struct flow {
	__u8 addr[16] __attribute__((aligned(4))); /* read as four words */
	__u16 port;
	__u8 proto;
	__u8 family;
};

static __always_inline void count(__u32 counter)
{
	__u64 *n = bpf_map_lookup_elem(&egd_counters, &counter);

	if (n)
		*n += 1;
}

static __always_inline void set_mapped(__u8 *addr, __u32 ip4)
{
	__u32 *w = (__u32 *)addr;

	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = ip4;
}

/* Addresses are aligned to 4 bytes wherever they are, which the compiler must be told
 * to copy more than bytes. */
static __always_inline void copy_addr(__u8 *to, const __u8 *from)
{
	__builtin_memcpy(__builtin_assume_aligned(to, 4), __builtin_assume_aligned(from, 4), 16);
}

static __always_inline bool is_mapped(const __u8 *addr)
{
	const __u32 *w = (const __u32 *)addr;

	return (w[0] | w[1] | (w[2] ^ bpf_htonl(0xffff))) == 0;
}

/* The kernel takes the unspecified address as loopback in connect() and
 * sendto(), so it counts as loopback here. */
static __always_inline bool is_loopback(const __u8 *addr)
{
	const __u32 *w = (const __u32 *)addr;

	if (is_mapped(addr))
		return addr[12] == 127 || w[3] == 0;
	return (w[0] | w[1] | w[2] | (w[3] & ~bpf_htonl(1))) == 0;
}

struct address {
	__u8 bytes[16];
};

/* What is not static, here and below, is a function that the verifier reads once,
 * whoever calls it and in whatever state: most of a start is the verifier's time. It
 * takes pointers that may be NULL, and believes nothing of what is returned. */
__noinline int egd_is_own(const struct address *addr)
{
	struct egd_own_key k = { .prefixlen = 128 };

	if (!addr)
		return 0;
	copy_addr(k.addr, addr->bytes);
	return bpf_map_lookup_elem(&egd_own, &k) != NULL;
}

/* Whether the node receives what goes to an address. Of a socket in another
 * network namespace it says nothing: the address is somebody else's there. */
static __always_inline bool is_own(const __u8 *addr)
{
	return egd_is_own((const struct address *)addr) != 0;
}

/* How cgroups around one are looked through, the nearest first. */
struct ancestor_walk {
	void *skb;  /* a struct __sk_buff, which BTF would take for one that is only declared */
	__u32 from; /* the level to begin with */
	__u64 found;
};

/* Few cgroups are deeper than this: so deep is looked only if there is something. */
#define USUAL_LEVEL 7

static long ancestor_step(__u32 i, struct ancestor_walk *w)
{
	__u64 id = bpf_get_current_ancestor_cgroup_id(w->from - i);

	if (!id || !bpf_map_lookup_elem(&egd_workloads, &id))
		return 0;
	w->found = id;
	return 1;
}

/* The nearest cgroup around the calling process that is a workload's key; 0: none. */
__noinline __u64 egd_ancestor(void)
{
	struct ancestor_walk w = { .from = USUAL_LEVEL };

	if (bpf_get_current_ancestor_cgroup_id(USUAL_LEVEL + 1))
		w.from = MAX_CGROUP_LEVEL;
	bpf_loop(w.from + 1, ancestor_step, &w, 0);
	return w.found;
}

/* The workload of the calling process: its cgroup or the nearest ancestor
 * that is one. The caller's cgroup, not the socket's: a socket that was passed
 * to a stricter workload is used under the stricter policy. */
static __always_inline struct egd_workload *find_workload(__u64 *cgroup)
{
	struct egd_workload *wl;
	__u64 id = bpf_get_current_cgroup_id();

	*cgroup = id;
	wl = bpf_map_lookup_elem(&egd_workloads, &id);
	if (!wl) {
		wl = find_beside(id);
		if (wl)
			return wl;
		id = egd_ancestor();
		if (id)
			wl = bpf_map_lookup_elem(&egd_workloads, &id);
	}
	/* A cgroup that was made a moment ago is known by its name only. */
	if (wl && (wl->flags & EGD_WL_OUTSIDE)) {
		id = egd_follow();
		if (id)
			wl = bpf_map_lookup_elem(&egd_workloads, &id);
	}
	if (!wl || !(wl->flags & EGD_WL_HOLDS))
		return wl;
	id = egd_container();
	return id ? bpf_map_lookup_elem(&egd_workloads, &id) : wl;
}

static long skb_ancestor_step(__u32 i, struct ancestor_walk *w)
{
	__u64 id = bpf_skb_ancestor_cgroup_id(w->skb, w->from - i);

	if (!id || !bpf_map_lookup_elem(&egd_workloads, &id))
		return 0;
	w->found = id;
	return 1;
}

/* The key of the workload of the socket that a packet comes from; 0: none. */
__noinline __u64 egd_skb_cgroup(struct __sk_buff *skb)
{
	struct ancestor_walk w = { .skb = skb, .from = USUAL_LEVEL };
	__u64 id = bpf_skb_cgroup_id(skb);
	struct egd_workload *wl;

	if (bpf_map_lookup_elem(&egd_workloads, &id))
		return id;
	wl = find_beside(id);
	if (wl)
		return wl->home;
	if (bpf_skb_ancestor_cgroup_id(skb, USUAL_LEVEL + 1))
		w.from = MAX_CGROUP_LEVEL;
	bpf_loop(w.from + 1, skb_ancestor_step, &w, 0);
	return w.found;
}

/* The packet's full socket; NULL for one of nobody here, and for a request or a
 * TIME_WAIT, whose fields the verifier lets nobody read. */
static __always_inline struct bpf_sock *full_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	return sk ? bpf_sk_fullsock(sk) : NULL;
}

/* The workload of the socket that a packet comes from. */
static __always_inline struct egd_workload *find_skb_workload(struct __sk_buff *skb)
{
	__u64 id = egd_skb_cgroup(skb);

	return id ? bpf_map_lookup_elem(&egd_workloads, &id) : NULL;
}

/* The workload around a socket whose own one is none any more. That its cgroup
 * is gone frees nobody: what remains then is no workload at all. */
static __always_inline struct egd_workload *find_around(struct __sk_buff *skb)
{
	struct egd_workload *wl = find_skb_workload(skb);

	return wl && (wl->flags & EGD_WL_OUTSIDE) ? NULL : wl;
}

/* As policy.Way.Within: what the exact address opens, and what a prefix around it
 * does. TCP rules that disagree are told apart by the proxy; of two that send
 * the flow to endpoints, the exact address's has its way. */
static __always_inline struct egd_addr_val join(struct egd_addr_val a, struct egd_addr_val b,
						__u8 proto)
{
	if (b.verdict == EGD_DENY)
		return a;
	if (a.verdict == EGD_DENY)
		return b;
	if (a.verdict == b.verdict && (a.verdict != EGD_INSPECT || a.set == b.set))
		return a;
	if (proto == IPPROTO_TCP) {
		a.straight |= b.straight || a.verdict == EGD_DIRECT || b.verdict == EGD_DIRECT;
		a.verdict = EGD_PROXY;
		a.slots = 0;
		a.set = 0;
		return a;
	}
	return a.verdict > b.verdict ? a : b;
}

/* A value as one number, which a function that is not static can take and return. */
union val {
	__u64 raw;
	struct egd_addr_val v;
};

static __always_inline struct egd_addr_val read_val(const struct egd_addr_val *v)
{
	union val u = {};

	if (v)
		u.raw = *(const volatile __u64 *)v;
	return u.v;
}

/* What the tables say about a flow: what the exact address opens and what the
 * longest prefix does. EGD_DENY when neither knows it. */
static __always_inline struct egd_addr_val lookup_verdict(const struct flow *f, __u32 policy)
{
	struct egd_addr_key exact = {
		.policy = policy,
		.port = f->port,
		.proto = f->proto,
	};
	struct egd_cidr_key prefix = {
		.prefixlen = 64 + 128,
		.policy = policy,
		.port = f->port,
		.proto = f->proto,
	};
	struct egd_addr_val v;

	__builtin_memcpy(exact.addr, f->addr, 16);
	v = read_val(egd_find(&egd_addrs, &exact));
	__builtin_memcpy(prefix.addr, f->addr, 16);
	return join(v, read_val(bpf_map_lookup_elem(&egd_cidrs, &prefix)), f->proto);
}

/* What is open inside of the cluster, where no other entry says anything: a Service
 * that a Sidecar imports, or the cluster's prefixes on every port. */
static __always_inline struct egd_addr_val lookup_inside(const struct flow *f, __u32 policy)
{
	struct egd_addr_key exact = {
		.policy = policy,
		.port = f->port,
		.proto = f->proto,
		.inside = 1,
	};
	struct egd_cidr_key prefix = {
		.prefixlen = 64 + 128,
		.policy = policy,
		.proto = f->proto,
		.inside = 1,
	};
	struct egd_addr_val v;

	__builtin_memcpy(prefix.addr, f->addr, 16);
	v = read_val(bpf_map_lookup_elem(&egd_cidrs, &prefix));
	if (v.verdict != EGD_DENY)
		return v;
	__builtin_memcpy(exact.addr, f->addr, 16);
	return read_val(egd_find(&egd_addrs, &exact));
}

/* What the tables say of a flow, with what lies behind them: a union val. */
__noinline __u64 egd_verdict(const struct flow *f, __u32 policy)
{
	union val u = {};

	if (!f)
		return 0; /* EGD_DENY */
	u.v = lookup_verdict(f, policy);
	if (u.v.verdict == EGD_DENY)
		u.v = lookup_inside(f, policy);
	return u.raw;
}

static __always_inline struct egd_addr_val policy_verdict(const struct flow *f, __u32 policy)
{
	union val u = { .raw = egd_verdict(f, policy) };

	return u.v;
}

/* The verdict for a flow of a workload. */
static __always_inline struct egd_addr_val workload_verdict(const struct flow *f,
							    const struct egd_workload *wl)
{
	struct egd_addr_val v = policy_verdict(f, wl->policy);

	if (v.verdict == EGD_DENY && (wl->flags & EGD_WL_ALLOW_ANY))
		v.verdict = EGD_DIRECT;
	return v;
}

static __always_inline bool is_known(const struct flow *f, __u32 policy)
{
	struct egd_known_key k = { .policy = policy };

	__builtin_memcpy(k.addr, f->addr, 16);
	return egd_find(&egd_known, &k) != NULL;
}

static __always_inline bool same_addr(const __u8 *a, const __u8 *b)
{
	const __u32 *v = (const __u32 *)a;
	const __u32 *w = (const __u32 *)b;

	/* One comparison: the verifier follows each branch to the end of the program. */
	return ((v[0] ^ w[0]) | (v[1] ^ w[1]) | (v[2] ^ w[2]) | (v[3] ^ w[3])) == 0;
}

/* The address of the listeners for sockets of other network namespaces, of the
 * family that was dialled; NULL: there is none. */
static __always_inline const __u8 *gate_for(const struct egd_config *cfg, const struct flow *f)
{
	const __u8 *gate = is_mapped(f->addr) ? cfg->gate4 : cfg->gate6;
	const __u32 *w = (const __u32 *)gate;

	return w[0] | w[1] | w[2] | w[3] ? gate : NULL;
}

static __always_inline bool is_gate(const struct egd_config *cfg, const struct flow *f)
{
	const __u8 *gate = gate_for(cfg, f);

	return gate && same_addr(gate, f->addr);
}

/* The key of a listener of egressd for a flow, by whether it is at the gate. */
static __always_inline __u32 listener_key(const struct flow *f, bool gate, __u32 kind)
{
	__u32 place = gate ? EGD_GATE4 : EGD_LOOPBACK4;

	if (!is_mapped(f->addr))
		place++;
	return place * EGD_KINDS + kind;
}

/* Whether one of egressd's sockets is open. */
static __always_inline bool is_listening(__u32 key)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&egd_listeners, &key);

	if (!sk)
		return false;
	bpf_sk_release(sk);
	return true;
}

/* Whether a workload has used up its share of egd_origins. Several of its sockets at a
 * time may pass the bound by as many as there are CPUs. */
static __always_inline bool over_quota(__u32 workload)
{
	struct egd_usage *u = bpf_map_lookup_elem(&egd_usage, &workload);

	return !u || u->origins >= EGD_MAX_ORIGINS;
}

/* Whether a workload has used up its share of the open connections that are redirected on the
 * node's loopback: it may not have more than it leaves free. As above, several at a
 * time may pass the bound by as many as there are CPUs. */
static __always_inline bool over_conn_quota(const struct egd_config *cfg, __u32 workload)
{
	__u32 all = 0;
	struct egd_usage *sum = bpf_map_lookup_elem(&egd_usage, &all);
	struct egd_usage *u = bpf_map_lookup_elem(&egd_usage, &workload);

	if (!u || !sum)
		return true;
	return cfg->room && u->conns + 2 > cfg->room - sum->conns;
}

/* Whether a port is one of egressd's listeners'. */
__noinline int egd_is_own_port(const struct flow *f)
{
	struct egd_config *cfg = get_config();
	int i;

	if (!f || !cfg)
		return 0;
	if (f->proto == IPPROTO_TCP)
		return f->port == cfg->proxy_port || f->port == cfg->dns_tcp_port ||
		       (cfg->admin_port && f->port == cfg->admin_port);
	for (i = 0; i < EGD_DNS_SLOTS; i++)
		if (f->port == cfg->dns_port[i])
			return 1;
	return 0;
}

static __always_inline bool is_own_port(const struct flow *f)
{
	return egd_is_own_port(f) != 0;
}

#endif
