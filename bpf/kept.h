/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The bytes of a hello, kept until the server has acknowledged them: what is sent
 * again must be what was read. Else the first version, which is read, may be made
 * to die on its way, and the server gets another one. */
#ifndef EGRESSD_KEPT_H
#define EGRESSD_KEPT_H

#include "common.h"

struct keep_walk {
	struct __sk_buff *skb;
	__u8 *data;     /* EGD_MAX_KEPT bytes and room for the last step */
	__u32 off, end; /* in skb */
	__u32 pos;      /* in the stream */
	__u64 differs;
};

/* The next bytes, at most 32, in a form that the verifier believes. */
static __always_inline __u32 step_of(__u32 n)
{
	if (n > 32)
		n = 32;
	asm volatile("" : "+r"(n));
	return ((n - 1) & 31) + 1;
}

/* Not counted by hack/bpf-coverage: with counters the verifier follows every turn. */
#define NOT_COVERED __attribute__((no_sanitize("coverage")))

NOT_COVERED static long keep_step(__u32 i, struct keep_walk *w)
{
	__u32 n = w->end - w->off, pos = w->pos;

	if (w->off >= w->end || pos >= EGD_MAX_KEPT)
		return 1;
	n = step_of(n);
	asm volatile("" : "+r"(pos)); /* so that the verifier sees the bound */
	pos &= EGD_MAX_KEPT - 1;
	if (bpf_skb_load_bytes(w->skb, w->off, &w->data[pos], n)) {
		w->differs = 1;
		return 1;
	}
	w->off += n;
	w->pos += n;
	return 0;
}

/* Eight bytes, without a branch for each: the verifier would follow them all. */
NOT_COVERED static long compare_step(__u32 i, struct keep_walk *w)
{
	__u32 n = w->end - w->off, pos = w->pos;
	__u64 now = 0, before = 0;

	if (w->off >= w->end || pos >= EGD_MAX_KEPT)
		return 1;
	n = step_of(n);
	if (n > 8)
		n = 8;
	if (bpf_skb_load_bytes(w->skb, w->off, &now, n)) {
		w->differs = 1;
		return 1;
	}
	asm volatile("" : "+r"(pos));
	pos &= EGD_MAX_KEPT - 1;
	before = *(const __u64 *)(const void *)&w->data[pos];
	w->differs |= (now ^ before) << (64 - 8 * n); /* little-endian: the first n */
	w->off += n;
	w->pos += n;
	return w->differs != 0;
}

/* Enough for either. */
#define KEEP_STEPS (EGD_MAX_KEPT / 8 + 1)

/* Keeps the bytes from off to end of the packet at pos of the stream, below
 * EGD_MAX_KEPT. 0: they don't fit. */
__noinline int egd_keep_bytes(struct __sk_buff *skb, struct egd_kept *kept, __u32 pos, __u32 off,
			      __u32 end)
{
	struct keep_walk k = { .skb = skb, .off = off, .end = end, .pos = pos };

	if (!kept)
		return 0;
	k.data = kept->data;
	bpf_loop(KEEP_STEPS, keep_step, &k, 0);
	return !k.differs && k.off >= k.end;
}

/* Whether they are what was kept there. */
__noinline int egd_same_bytes(struct __sk_buff *skb, struct egd_kept *kept, __u32 pos, __u32 off,
			      __u32 end)
{
	struct keep_walk k = { .skb = skb, .off = off, .end = end, .pos = pos };

	if (!kept)
		return 0;
	k.data = kept->data;
	bpf_loop(KEEP_STEPS, compare_step, &k, 0);
	return !k.differs && k.off >= k.end;
}

#endif
