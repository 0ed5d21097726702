/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the kernel programs tell user space; part of the ABI of egressd.h. */
#ifndef EGRESSD_EVENTS_H
#define EGRESSD_EVENTS_H

#include "egressd.h"

/* What an event tells. */
enum egd_event_kind {
	EGD_E_DECISION = 0,
	EGD_E_CLOSE = 1,
	/* The first bytes of a connection that nobody judged, for the mode is audit. */
	EGD_E_FIRST = 2,
};

/* What they are. */
enum egd_first {
	EGD_FIRST_OTHER = 0,
	EGD_FIRST_HELLO = 1, /* a whole ClientHello, with its SNI if it has one */
	EGD_FIRST_PART = 2,  /* the beginning of one */
};

/* egd_events: ring buffer of decisions and of the ends of connections that
 * went straight to their destination. */
struct egd_event {
	__u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 cgroup;
	__u8 dst[16];
	__u16 dport; /* network order */
	__u8 family;
	__u8 proto;  /* IPPROTO_* */
	__u8 reason; /* enum egd_reason */
	__u8 verdict;
	__u8 audit; /* 1: would deny, was allowed */
	__u8 kind;  /* enum egd_event_kind */
	__u32 workload;
	__u32 policy;
	__u32 pid;
	__u32 uid;
	char comm[16];
	__u8 src[16];    /* of a connection that is to be ended; else zero */
	__u8 peer[16];   /* whom it is connected to, if not dst: an endpoint or a listener */
	__u16 sport;     /* network order */
	__u16 peer_port; /* network order */
	__u16 name_len;  /* of the SNI; EGD_FIRST_OTHER: of the first bytes, at most 32 */
	__u16 hello;     /* EGD_E_FIRST: enum egd_first */
	__u32 ifindex;   /* of the interface that it came by; 0: from a socket here */
	__u32 pad2;
	__u64 cookie; /* of the socket */
	__u64 sent;   /* EGD_E_CLOSE: payload bytes */
	__u64 received;
	__u64 opened; /* EGD_E_CLOSE: time of the connect */
	__u64 netns;  /* cookie of the socket's network namespace; 0: not said */
	__u8 name[EGD_MAX_NAME];
};

#endif
