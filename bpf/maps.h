/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every map of egressd. Owner and lifetime of each: docs/ARCHITECTURE.md.
 * Names are egd_* and at most 15 characters, so that bpftool shows whose they
 * are; they are pinned by their names, which the next version looks for. Only
 * egd_peers and egd_beside are LRUs: elsewhere an entry that vanishes by itself would
 * be a wrong answer; a full map is a denial that is counted. */
#ifndef EGRESSD_MAPS_H
#define EGRESSD_MAPS_H

#include "egressd.h"

/* A table of the policy, which only the loader writes: the array has one element,
 * the table, and when that fills up a bigger copy takes its place. What a bucket
 * of a hash map takes is taken when the map is made, whether it is used or not. */
/* clang-format off */
#define EGD_TABLE(key_type, value_type)                   \
	struct {                                          \
		__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); \
		__uint(max_entries, 1);                   \
		__type(key, __u32);                       \
		__array(values, struct {                  \
			__uint(type, BPF_MAP_TYPE_HASH);  \
			__uint(max_entries, 4096);        \
			__uint(map_flags, BPF_F_NO_PREALLOC); \
			__type(key, key_type);            \
			__type(value, value_type);        \
		});                                       \
	}
/* clang-format on */

static const __u32 egd_only; /* where the array has the table */

/* clang describes types that only the tables in arrays have if they are used. */
static const struct {
	struct egd_addr_key addr;
	struct egd_addr_val val;
	struct egd_known_key known;
	struct egd_endpoint_key endpoint_key;
	struct egd_endpoint endpoint;
	struct egd_name_key name;
} egd_table_types __attribute__((used));

/* Looks a key up in such a table. */
static __always_inline void *egd_find(void *table, const void *key)
{
	void *now = bpf_map_lookup_elem(table, &egd_only);

	return now ? bpf_map_lookup_elem(now, key) : NULL;
}

/* Written by the loader, read by every program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct egd_config);
} egd_config SEC(".maps");

/* cgroup id -> workload. Written by the loader, and for cgroups that were made a
 * moment ago by egd_follow and egd_container. Several cgroups may be one workload. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_MAX_CGROUPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct egd_workload);
} egd_workloads SEC(".maps");

/* The names of captured cgroups. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_step_key);
	__type(value, struct egd_step);
} egd_captured SEC(".maps");

/* Ids of cgroups that are beside what is captured by name, or in no new container (enum
 * egd_beside_what), which spares reading their names. Written by egd_follow, egd_container
 * and the loader. An id is never given to another cgroup; what
 * is not in here is looked at again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u32);
} egd_beside SEC(".maps");

/* What exact addresses open. Written by the loader. */
EGD_TABLE(struct egd_addr_key, struct egd_addr_val) egd_addrs SEC(".maps");

/* Addresses that any port opens for a policy. Written by the loader. */
EGD_TABLE(struct egd_known_key, __u32) egd_known SEC(".maps");

/* What prefixes open. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_cidr_key);
	__type(value, struct egd_addr_val);
} egd_cidrs SEC(".maps");

/* Sets of endpoints: slots and members. Written by the loader. */
EGD_TABLE(struct egd_endpoint_key, struct egd_endpoint) egd_endpoints SEC(".maps");

/* Socket cookie -> the address that was dialled, of open connections to the
 * endpoint of another address. Written by connect(), removed at the
 * connection's end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct egd_dialled);
} egd_dialled SEC(".maps");

/* Original destinations. Written by sock_ops and skb_egress, taken out by the
 * loader when the listener accepts, swept by age. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_ORIGINS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_origin_key);
	__type(value, struct egd_origin);
} egd_origins SEC(".maps");

/* egressd's own sockets, by egd_listener. Written by the loader; the kernel takes
 * a socket out when it is closed. So nobody who binds a listener's port while the
 * daemon is down is handed anything. No program parses or redirects by it. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, EGD_LISTENERS);
	/* Sizes, not types: the kernel refuses a sockmap with types (map_check_btf),
	 * and waits for a grace period to do so. */
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u64));
} egd_listeners SEC(".maps");

/* What the node receives itself. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1 << 14);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_own_key);
	__type(value, __u32);
} egd_own SEC(".maps");

/* ifindex -> egressd's address there. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_DEVICES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct egd_device);
} egd_devices SEC(".maps");

/* By struct egd_workload's id. Written by sock_ops, skb_egress and, through
 * mapped memory, the loader: both add to it atomically. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, EGD_MAX_WORKLOADS);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct egd_usage);
} egd_usage SEC(".maps");

/* Whom a UDP server may answer, besides egd_recent. An LRU, for strangers can fill
 * it, and what falls out is a reply that is refused, never one that is let
 * pass. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct egd_peer_key);
	__type(value, __u64); /* when the datagram was read, CLOCK_MONOTONIC */
} egd_peers SEC(".maps");

/* Whom a UDP socket heard last: its own share, whatever happens to egd_peers. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct egd_recent);
} egd_recent SEC(".maps");

/* Per-socket state; dies with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct egd_socket);
} egd_sockets SEC(".maps");

/* What an unconnected UDP socket's addresses were rewritten to; made by the
 * first such datagram, dies with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct egd_rewrites);
} egd_rewrites SEC(".maps");

/* Where the parser of a ClientHello stands; made at connect() of an inspected
 * connection, dies with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct egd_hello);
} egd_hellos SEC(".maps");

/* What was read of a hello; made with the first byte, removed when the server has
 * acknowledged it. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct egd_kept);
} egd_kept SEC(".maps");

/* The server names that are allowed at learned addresses. Written by the loader. */
EGD_TABLE(struct egd_name_key, __u32) egd_names SEC(".maps");

/* ifindex -> whose it is. Written by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_IFACES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct egd_iface);
} egd_ifaces SEC(".maps");

/* ifindex -> its entries in the tables below. The programs count; the loader
 * makes the entry, and counts anew at each sweep. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_IFACES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct egd_share);
} egd_shares SEC(".maps");

/* What passes guarded interfaces. Written by the programs on them, swept by
 * the loader. */
#define EGD_FLOWS (1 << 18)
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_flow_key);
	__type(value, struct egd_flow);
} egd_flows SEC(".maps");

/* Inspected flows: where the parser stands, and the name. As long as the flow. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_FLOWS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_flow_key);
	__type(value, struct egd_hello);
} egd_flow_hello SEC(".maps");

/* The bytes of hellos that the server has not acknowledged yet. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, EGD_HELLOS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct egd_flow_key);
	__type(value, struct egd_flow_bytes);
} egd_flow_bytes SEC(".maps");

/* What entries of these two begin as. */
static const __u8 egd_no_bytes[sizeof(struct egd_flow_bytes)];
static const struct egd_hello egd_no_hello = { .need = 1 }; /* the handshake type */

/* By enum egd_reason and enum egd_counter. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EGD_C_MAX);
	__type(key, __u32);
	__type(value, __u64);
} egd_counters SEC(".maps");

/* struct egd_event, to user space. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EGD_EVENT_RING);
} egd_events SEC(".maps");

#endif
