/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the programs on interfaces share with user space; part of the ABI of
 * egressd.h. */
#ifndef EGRESSD_IFACE_H
#define EGRESSD_IFACE_H

#include "egressd.h"

/* The mark of packets that are given to egressd's sockets; an ip rule for it
 * makes them local. It exempts from nothing: who forges it talks to nobody. */
enum egd_mark {
	EGD_MARK = 0x65676401,
};

/* egd_iface.flags. */
enum egd_iface_flag {
	EGD_IF_L3 = 1,        /* no link-layer header */
	EGD_IF_ALLOW_ANY = 2, /* as EGD_WL_ALLOW_ANY */
};

/* egd_ifaces: the interfaces whose other end is a workload, by index. What
 * comes in by one is the workload's, whatever source address it bears. */
struct egd_iface {
	__u32 workload;
	__u32 policy;
	__u32 share; /* how many entries of egd_flows it may have */
	__u8 mode;   /* enum egd_mode */
	__u8 flags;  /* enum egd_iface_flag */
	__u16 pad;
};

/* egd_shares: what an interface has of the tables that all interfaces share. */
struct egd_share {
	__u64 flows;  /* in egd_flows */
	__u64 hellos; /* in egd_flow_bytes */
};

/* egd_flows: connections and datagrams that pass an interface and whose
 * sockets are not in this kernel. src is the workload's end. */
struct egd_flow_key {
	__u32 ifindex;
	__u16 sport; /* network order */
	__u16 dport; /* network order */
	__u8 src[16];
	__u8 dst[16];
	__u8 proto;
	__u8 pad[3];
};

/* egd_flow.flags, set by what comes from the workload. */
enum egd_flow_flag {
	EGD_F_INBOUND = 1,     /* the other end began it */
	EGD_F_SNI_ALLOWED = 2, /* the SNI was allowed */
	EGD_F_FIN = 4,
	EGD_F_RESET = 8,
	EGD_F_REPORTED = 16, /* audit: it would have been denied */
	EGD_F_SETTLED = 32,  /* no second ClientHello can come; hello is set */
};

/* egd_flow.heard, set by what goes to the workload, which another CPU may do at
 * that time. */
enum egd_heard_flag {
	EGD_H_SYNCED = 1, /* the server has told where the stream begins */
	EGD_H_ACKED = 2,  /* the server has acknowledged the whole hello */
	EGD_H_FIN = EGD_F_FIN,
	EGD_H_RESET = EGD_F_RESET,
};

struct egd_flow {
	__u64 opened; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 seen;   /* the last packet; of inbound UDP: the last one that came in */
	__u64 sent;   /* bytes of IP packets */
	__u64 received;
	__u32 epoch;
	__u32 base;  /* TCP, host order: sequence number of the stream's first byte */
	__u32 hello; /* bytes up to where it is settled that no other hello comes */
	__u32 acked; /* the last acknowledgement of the server */
	__u32 policy;
	__u32 workload;
	__u8 verdict; /* enum egd_verdict */
	__u8 mode;    /* enum egd_mode */
	/* enum egd_reason: blocked, nothing passes any more. (The name is part of the
	 * layout, by which the next version knows the table again.) */
	__u8 cut;
	__u8 flags; /* enum egd_flow_flag */
	__u8 heard; /* enum egd_heard_flag */
	__u8 pad[3];
};

/* egd_flow_bytes: the bytes of a hello, until the server has acknowledged
 * them. Whoever makes the segments himself can send two versions of one byte,
 * of which the server never gets one (a bad checksum, a low TTL); so only the
 * first version passes, and a hello that does not fit in here is refused. */
struct egd_flow_bytes {
	struct bpf_spin_lock lock;
	__u32 busy;                   /* a CPU is at work on the flow's hello */
	__u8 data[EGD_MAX_KEPT + 64]; /* room for the last step */
};

#endif
