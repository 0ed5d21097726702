/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * The ABI between the kernel programs and user space: enums and the structs
 * that are keys and values of maps. bpf2go generates the Go mirrors from the
 * BTF of the compiled object; a test in loader compares the enums with
 * package policy and pins the sizes.
 *
 * Byte order: every address is 16 bytes in network order; IPv4 addresses are
 * v4-mapped (::ffff:a.b.c.d), so that one key format serves both families and
 * a v4-mapped socket hits the same entry as an IPv4 one. Every port in a key
 * is in network order. Counters, ids and times are in host order.
 */
#ifndef EGRESSD_H
#define EGRESSD_H

#include <linux/bpf.h>
#include <linux/types.h>

/* What the kernel does with a flow; policy.Verdict. */
enum egd_verdict {
	EGD_DENY = 0,
	EGD_DIRECT = 1,
	EGD_INSPECT = 2,
	EGD_PROXY = 3,
};

/* What a denial means for a workload; policy.Mode. */
enum egd_mode {
	EGD_ENFORCE = 0,
	EGD_AUDIT = 1,
	EGD_OFF = 2,
};

/* Why the kernel denied; loader maps each to a policy.Reason. The number is
 * also the index into the counters. */
enum egd_reason {
	EGD_R_NONE = 0,
	EGD_R_NO_RULE = 1,
	EGD_R_SOCKET_TYPE = 2,
	EGD_R_NETNS = 3,
	EGD_R_OWN_PORT = 4,
	EGD_R_MAP_FULL = 5,
	EGD_R_NO_WORKLOAD = 6,
	EGD_R_NO_CONFIG = 7,
	EGD_R_STORAGE = 8,
	EGD_R_TRANSPORT = 9,    /* the address is known, but no rule of UDP's */
	EGD_R_NAME = 10,        /* the SNI is not one that this address was learned for */
	EGD_R_NO_NAME = 11,     /* a ClientHello without SNI */
	EGD_R_NOT_TLS = 12,     /* the first bytes are no ClientHello */
	EGD_R_MALFORMED = 13,   /* a ClientHello that does not add up, or a bad packet */
	EGD_R_CHANGED = 14,     /* the policy changed and denies an open connection */
	EGD_R_OPTIONS = 15,     /* a source route or another IP option */
	EGD_R_MARTIAN = 16,     /* a packet for loopback that is not loopback's */
	EGD_R_QUOTA = 17,       /* the workload or interface has used up its share of a table */
	EGD_R_SOURCE = 18,      /* the source address is another namespace's */
	EGD_R_NO_ENDPOINT = 19, /* the set of endpoints has not the one that was chosen */
	EGD_R_GROUP = 20,       /* a multicast group that the kernel would tell the link of */
	EGD_R_DEVICE = 21,      /* the socket is bound to a device, where no listener is */
	/* Of packets on interfaces (packet.h, tc.h): */
	EGD_R_ETHERTYPE = 24, /* a frame that is not IP and not what IP needs; a VLAN tag */
	EGD_R_FRAGMENT = 25,
	EGD_R_NO_STATE = 26, /* the middle of a connection whose beginning nobody saw */
	/* 27 was EGD_R_QUOTA of interfaces. */
	EGD_R_FRAME = 28,    /* a frame that did not come from the IP stack */
	EGD_R_SEQUENCE = 29, /* a segment that does not fit those before it; counted only */
	EGD_R_LISTENER = 30, /* nobody listens: the daemon is down */
	EGD_R_MAX = 32,
};

/* Counters that are no denials. */
enum egd_counter {
	EGD_C_PASS_LOOPBACK = EGD_R_MAX,
	EGD_C_PASS_OWN,
	EGD_C_DIRECT,
	EGD_C_PROXY,
	EGD_C_DNS,
	EGD_C_EVENT_LOST,
	EGD_C_AUDIT,
	EGD_C_INSPECT,
	EGD_C_REPLY,        /* datagrams that answer somebody */
	EGD_C_BY_SOCKET,    /* packets of interfaces whose socket was decided about */
	EGD_C_INBOUND,      /* connections that others opened by an interface */
	EGD_C_CONTROL,      /* ARP, neighbour discovery, DHCP */
	EGD_C_PASS_OUTSIDE, /* of cgroups beside the captured ones */
	EGD_C_MAX = 64,
};

/* Sizes. What user space uses of them it has from BTF, so they are no macros. */
enum egd_size {
	/* How many DNS servers one unconnected UDP socket can talk to at a time and
	 * still get its answers under the right source address. The DNS proxy listens
	 * on this many UDP ports; the port tells it the slot. */
	EGD_DNS_SLOTS = 4,
	EGD_LISTENERS = 32,
	/* The longest name in a table: 253 bytes and room (RFC 1035). A power of 2. */
	EGD_MAX_NAME = 256,
	/* How many entries of egd_origins one workload may have. Connections count
	 * until they are accepted, DNS sockets until they are closed; a listener's
	 * backlog is half of this. */
	EGD_MAX_ORIGINS = 8192,
	EGD_ORIGINS = 8 * EGD_MAX_ORIGINS,
	/* Numbers of workloads are below this. */
	EGD_MAX_WORKLOADS = 16384,
	EGD_MAX_CGROUPS = 65536,
	/* A cgroup's name is read in pieces of one byte less. NAME_MAX is 255. */
	EGD_NAME_PIECE = 32,
	EGD_NAME_PIECES = 9,
	EGD_DEVICES = 64,
	EGD_IFACES = 8192,
	/* How many entries of egd_flow_bytes there are, and an interface may have. */
	EGD_HELLOS = 8192,
	EGD_MAX_HELLOS = EGD_HELLOS / 8,
	EGD_EVENT_RING = 1 << 20, /* bytes */
	/* How many denials of one workload are reported in a window (15,000 a second):
	 * the ring is for all of them, and who is refused a million times a second must
	 * not keep the others' from being read. */
	EGD_MAX_REPORTS = 256,
};

/* Keys of egd_listeners: the kind of socket, and where it listens (egd_place)
 * times EGD_KINDS. */
enum egd_listener {
	EGD_L_PROXY = 0,
	EGD_L_DNS_TCP = 1,
	EGD_L_DNS_UDP = 2, /* and the slot */
	/* A power of 2. */
	EGD_KINDS = EGD_L_DNS_UDP + EGD_DNS_SLOTS + 2,
};

enum egd_place {
	EGD_LOOPBACK4 = 0,
	EGD_LOOPBACK6 = 1,
	EGD_GATE4 = 2,
	EGD_GATE6 = 3,
};

/* egd_workload.flags. */
enum egd_workload_flag {
	EGD_WL_EXEMPT = 1,    /* egressd's own cgroup: nothing is decided */
	EGD_WL_ALLOW_ANY = 2, /* what no table names goes straight there */
	/* Beside what is captured, below the cgroup that the programs are attached to:
	 * exempt (EGD_WL_EXEMPT is set as well), unless it has a captured name. */
	EGD_WL_OUTSIDE = 4,
	EGD_WL_FOUND = 8,  /* entered by a program, which knew the cgroup by its name */
	EGD_WL_HOLDS = 16, /* a new container in it is held: EGD_HELD */
	EGD_WL_HELD = 32,  /* one that is held: with EGD_WL_FOUND */
};

/* egd_beside. */
enum egd_beside_what {
	EGD_BESIDE_CAPTURED = 1,   /* the cgroup is beside what is captured by name */
	EGD_BESIDE_CONTAINERS = 2, /* it is in no container that would be held */
};

/* No key of egd_workloads: a cgroup whose name cannot be read, or that there is no
 * room for. */
#define EGD_NOBODY (~0ULL)

/* The key of egd_workloads of what a new container is until user space has said which
 * workload it is; that of no cgroup, and of no name. */
#define EGD_HELD (1ULL << 63 | 1)

/* What the names of cgroups are read for. */
enum egd_read {
	EGD_READS_CAPTURED = 1,   /* cgroups are captured by their names */
	EGD_READS_CONTAINERS = 2, /* new containers are held */
};

/* Where the kernel has what a cgroup's name is found by, in bytes; 0: not known, and names
 * are read for nothing. */
struct egd_offsets {
	__u32 task_cgroups;     /* task_struct.cgroups */
	__u32 css_set_cgroup;   /* css_set.dfl_cgrp */
	__u32 cgroup_level;     /* cgroup.level */
	__u32 cgroup_ancestors; /* cgroup.ancestors (Linux 6.1) */
	__u32 cgroup_node;      /* cgroup.kn */
	__u32 node_id;          /* kernfs_node.id */
	__u32 node_name;        /* kernfs_node.name */
};

/* egd_captured: the names of the captured cgroups, as a tree of numbered steps
 * that begins at 0, the cgroup of egd_config.above. Names are known by a hash: two that have
 * the same one are both captured. */
struct egd_step_key {
	__u64 hash;
	__u32 from; /* the step before */
	__u32 pad;
};

struct egd_step {
	__u64 like; /* the key of egd_workloads of what is captured here; 0: only on the way */
	__u32 step;
	__u32 pad;
};

/* The node's configuration, one entry at key 0 of egd_config. */
struct egd_config {
	/* Says by which layout the maps were written; at this place in every
	 * version (loader's layoutOf). */
	__u64 layout;
	__u64 netns_cookie;            /* of the network namespace with the listeners */
	__u16 proxy_port;              /* network order; on 127.0.0.1, ::1 and the gate */
	__u16 dns_tcp_port;            /* network order */
	__u16 dns_port[EGD_DNS_SLOTS]; /* network order, UDP */
	__u16 admin_port;              /* network order; refused to workloads; 0: none */
	__u16 room;                    /* host order; how many connections from sockets of that
			     * namespace may be redirected at a time; 0: any number */
	__u32 epoch;                   /* raised by every policy change */
	__u32 ready;                   /* 0: deny everything (tables are being filled) */
	__u32 last_set;                /* the highest id that a set of endpoints ever had */
	__u32 ring;                    /* which egd_events this is: a new one has a new number */
	__u32 accounts;                /* which egd_usage this is, likewise */
	__u32 pad;
	/* Where sockets of other network namespaces find the listeners; zero:
	 * nowhere, they are refused. */
	__u8 gate4[16];
	__u8 gate6[16];
	/* The id of the cgroup that the programs are attached to, if what is
	 * captured are cgroups below it, by their names; 0: it is captured itself. */
	__u64 above;
};

/* egd_workloads: cgroup v2 id -> the workload that its processes belong to. */
struct egd_workload {
	__u32 id;     /* number of the workload in user space */
	__u32 policy; /* policy.PolicyID */
	__u8 mode;    /* enum egd_mode */
	__u8 flags;   /* enum egd_workload_flag */
	__u16 pad;
	__u32 pad2;
	/* Its key, or one that stays: what is captured by name is in here also when
	 * the cgroup is gone, and a new one of the name has the sockets that were left. */
	__u64 home;
};

/* egd_addrs: what an exact address opens. */
struct egd_addr_key {
	__u32 policy;
	__u16 port;  /* network order */
	__u8 proto;  /* IPPROTO_TCP or IPPROTO_UDP */
	__u8 inside; /* 1: it counts where no entry with 0 is found, see lookup_inside */
	__u8 addr[16];
};

/* Read in one piece, as 8 bytes: the three belong together. */
struct egd_addr_val {
	__u8 verdict;  /* enum egd_verdict */
	__u8 straight; /* of EGD_PROXY: one of the rules that meet here says EGD_DIRECT */
	__u16 slots;   /* how many slots the set has; 0: the flow goes where it was dialled */
	__u32 set;     /* the endpoints to choose from */
};

/* egd_endpoints: where connections to an address of a service go. A set has
 * slots, one of which is drawn (an endpoint of twice the weight has twice the
 * slots), and a member for each endpoint, by which it is found again. */
struct egd_endpoint_key {
	__u32 set;
	__u16 slot;    /* 0 to slots - 1, or EGD_MEMBER */
	__u16 port;    /* of a member, network order; else 0 */
	__u8 addr[16]; /* of a member; else zero */
};

/* The slot of every member. */
enum egd_slot {
	EGD_MEMBER = 0xffff,
};

struct egd_endpoint {
	__u8 addr[16]; /* zero: the one that was dialled */
	__u16 port;    /* network order */
	__u16 pad;
};

/* egd_dialled: kept from version to version as socket storage is. */
struct egd_dialled {
	__u8 addr[16];
	__u16 port; /* network order */
	__u8 reserved[14];
};

/* egd_cidrs: what a prefix opens. prefixlen counts bits of the whole key
 * behind it: 64 for policy, port and proto, then the address bits (96 + n for
 * an IPv4 prefix of n bits). */
struct egd_cidr_key {
	__u32 prefixlen;
	__u32 policy;
	__u16 port; /* network order; with inside 0: every port */
	__u8 proto;
	__u8 inside; /* as of egd_addr_key */
	__u8 addr[16];
};

/* egd_origins: who is behind a connection or datagram that arrives at one of
 * egressd's listeners. Written before the SYN or datagram leaves. */
struct egd_origin_key {
	__u8 addr[16]; /* source address as the listener sees it */
	__u16 port;    /* source port, network order */
	__u8 proto;
	__u8 slot; /* UDP: index of the DNS port; TCP: 0 */
	/* What only who sent it knows, for another network namespace or machine
	 * may send, or pretend to, from the same address: of TCP the sequence
	 * number of the SYN, of UDP the first four bytes of the question, which
	 * begin with its id. By EGD_BY_LOOPBACK: of TCP the listener, as
	 * listener_token has it, for sockets that go to different ones may have
	 * one source; of UDP 0. Host order. */
	__u32 token;
	__u8 way; /* enum egd_way */
	__u8 pad[3];
};

/* How a flow comes to a listener. */
enum egd_way {
	EGD_BY_LOOPBACK = 0,  /* redirected in the listeners' network namespace */
	EGD_BY_GATE = 1,      /* redirected in another one */
	EGD_BY_INTERFACE = 2, /* from an interface, to the address that was dialled */
};

struct egd_origin {
	__u64 created; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 cookie;  /* socket cookie */
	__u64 cgroup;  /* cgroup id of the caller */
	__u64 home;    /* the key of egd_workloads that it was found under */
	__u64 netns;   /* cookie of the socket's network namespace */
	__u8 dst[16];  /* what the workload dialled */
	__u16 dport;   /* network order */
	__u8 family;   /* AF_INET or AF_INET6: how the workload dialled */
	__u8 mode;     /* enum egd_mode */
	__u32 workload;
	__u32 policy;
	__u32 pid; /* thread group id */
	__u32 uid;
	char comm[16];
	/* Without a cookie: the interface that it came by. With one: the device that
	 * the socket is bound to, 0: none. */
	__u32 ifindex;
};

/* egd_own: the addresses of the node. prefixlen counts the bits of addr. */
struct egd_own_key {
	__u32 prefixlen;
	__u8 addr[16];
};

/* egd_devices: where egressd listens for sockets that are bound to a device: at
 * an address of that device, the only ones of the node that such a socket
 * reaches. By interface index; zero: nowhere. */
struct egd_device {
	__u8 addr4[16];
	__u8 addr6[16];
};

/* egd_usage: what a workload has of the tables that all share, by its number.
 * The kernel adds what it writes and takes off what it removes; so does user
 * space, by the mapped memory. */
struct egd_usage {
	__s64 origins;
	/* Redirected TCP connections that are open, from the network namespace of the
	 * listeners: each has a port of the range that all workloads there share.
	 * Those of all workloads together are in the account of number 0. */
	__s64 conns;
	/* Events of denials: in which window of 2^24 ns, and how many were reported in
	 * it. Written without a lock: two CPUs may report one too many. */
	__u32 window;
	__u32 told;
};

/* What follows, up to egd_recent, is kept from version to version, for it belongs
 * to sockets that are open: fields stay where they are, with what they mean
 * (the two structs above, which egd_socket begins with, as well). New ones take
 * reserved bytes, which are zero in what an older version wrote. */

/* egd_sockets: socket storage. */
struct egd_dst {
	__u8 addr[16];
	__u16 port; /* network order */
	__u8 family;
	__u8 used;
};

/* The beginning of egd_origin_key. */
struct egd_published {
	__u8 addr[16];
	__u16 port;
	__u8 proto;
	__u8 slot;
};

struct egd_socket {
	struct egd_origin origin; /* of the last decided connect or send */
	struct egd_published published[EGD_DNS_SLOTS];
	struct egd_dst dns[EGD_DNS_SLOTS]; /* servers by slot */
	__u32 epoch;                       /* of the verdict */
	__u8 verdict;                      /* enum egd_verdict */
	__u8 redirected;                   /* getpeername must show origin.dst */
	__u8 udp_blocked;                  /* UDP: connected to an address without a UDP rule */
	__u8 next_slot;                    /* to be reused when all are taken */
	/* Of connections that go straight to their destination: */
	__u8 watched;       /* 1: skb_egress decides again when the epoch rises */
	__u8 proved;        /* 1: the SNI was allowed */
	__u8 blocked;       /* enum egd_reason: nothing leaves any more */
	__u8 rewritten;     /* the peer is not origin.dst, which getpeername must show */
	__u8 reported;      /* 1: user space was told of that, by the ring below */
	__u8 drop_reported; /* 1: it was told of a packet that was dropped */
	__u16 peer_port;    /* network order */
	__u32 ring;         /* egd_config's, when it was reported */
	__u32 pad;
	__u8 peer[16]; /* where the connection really goes: TCP's packets bear it */
	__u8 unjudged; /* 1: it passed because its workload was not in enforce mode */
	__u8 local;    /* 1: it was let pass as loopback's */
	__u8 other;    /* 1: neither TCP nor UDP, made where that was not refused */
	__u8 reading;  /* 1: the SNI was allowed, and skb_egress still compares and reads on */
	__u32 token[EGD_DNS_SLOTS]; /* of published */
	__u8 by_gate;               /* 1: of published, EGD_BY_GATE */
	__u8 pad2[3];
	/* What IP_UNICAST_IF and IPV6_UNICAST_IF chose: interface indexes. */
	__u32 unicast4;
	__u32 unicast6;
	/* The workload whose account of open connections has this one, 0: none, and
	 * in which egd_usage. */
	__u32 counted;
	__u32 accounts;
	__u8 unread; /* 1: unjudged, and nobody has said what its first bytes are */
	__u8 reserved[23];
};

/* egd_rewrites: socket storage of unconnected UDP sockets: the endpoints that
 * stand for what the socket dialled, so that all datagrams to one address go
 * to one endpoint and its answers come back under that address. */
#define EGD_REWRITES 4 /* a power of 2 */

struct egd_rewrite {
	__u8 dst[16];
	__u8 peer[16];
	__u16 dport;     /* network order; 0: unused */
	__u16 peer_port; /* network order */
};

struct egd_rewrites {
	struct egd_rewrite all[EGD_REWRITES];
	__u32 next; /* to be reused when all are taken */
	__u8 reserved[40];
};

/* egd_names: the server names that are allowed at an address on a port: a connection
 * whose ClientHello carries one of them may go on. */
struct egd_name_key {
	__u32 policy;
	__u16 port; /* network order */
	__u16 len;
	__u8 addr[16];
	__u8 name[EGD_MAX_NAME]; /* lower case, zeroes behind it */
};

/* How many bytes of a stream are kept; a power of 2. */
#define EGD_MAX_KEPT 4096

/* egd_hellos: socket storage of inspected connections: where the parser of
 * the ClientHello stands, and the name that it found. */
struct egd_hello {
	__u32 next_seq; /* TCP sequence number of the next byte, host order */
	__u32 record;   /* bytes left in the TLS record */
	__u32 left;     /* bytes left in the handshake message */
	__u32 skip;     /* bytes to skip before the next field */
	__u32 need;     /* bytes left of the field */
	__u32 acc;      /* the field so far */
	__u32 list;     /* length of the server_name extension */
	__u16 ext_type;
	__u8 field;
	__u8 record_pos;
	__u8 started;    /* a whole record header was read */
	__u8 named;      /* a server_name was seen */
	__u8 synced;     /* next_seq is set */
	__u8 record_len; /* high byte of the length in a record header */
	/* The name so far, in the form in which it is looked up: a key anywhere
	 * else than in the socket's own storage could change under the lookup,
	 * since the programs can be preempted. */
	struct egd_name_key key;
	__u32 base;   /* sequence number of the first byte, host order */
	__u16 again;  /* bytes of the second hello's name so far, all as in the first */
	__u8 phase;   /* enum egd_phase */
	__u8 early;   /* the hello announces early data (RFC 8446 section 4.2.10) */
	__u8 ccs;     /* a change_cipher_spec came after the hello */
	__u8 opaque;  /* the record is not a handshake's: it is skipped */
	__u8 settled; /* nothing behind next_seq can be a ClientHello */
	__u8 reserved[9];
};

/* egd_hello.phase: of which hello the parser's fields speak. */
enum egd_phase {
	EGD_FIRST = 0,
	EGD_BETWEEN = 1, /* the first was good; a HelloRetryRequest may ask for another */
	EGD_SECOND = 2,
};

/* egd_kept: socket storage of inspected connections: the first bytes of the
 * stream, until the server has acknowledged what was read. */
struct egd_kept {
	__u8 data[EGD_MAX_KEPT + 64]; /* room for the last step */
};

/* egd_peers: who sent a datagram to an unconnected socket of the workload. */
struct egd_peer_key {
	__u64 cookie; /* of the socket */
	__u8 addr[16];
	__u16 port; /* network order */
	__u16 pad[3];
};

/* egd_recent: socket storage: the last of them, which nobody else can push out. */
#define EGD_RECENT 16 /* a power of 2 */

struct egd_peer {
	__u64 at; /* when the datagram was read, CLOCK_MONOTONIC; 0: none */
	__u8 addr[16];
	__u16 port; /* network order */
	__u16 pad[3];
};

struct egd_recent {
	struct egd_peer peers[EGD_RECENT];
	__u32 next; /* to be overwritten */
	__u32 pad;
	__u8 reserved[24];
};

/* egd_known: addresses that were learned for a policy, whatever the port. A UDP
 * connect() to one is let pass, for getaddrinfo(3) does that and sends nothing; what
 * the socket sends is refused (udp_blocked of egd_socket). */
struct egd_known_key {
	__u32 policy;
	__u8 addr[16];
};

#include "iface.h"
#include "events.h"

#endif
