/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A container that was made a moment ago: its cgroup has no workload of its own yet, and
 * that of the cgroup around it would be the node's. Its name tells that it is a container's.
 * So it is held, under the policy of containers of which nothing is known, until user
 * space has said which workload it is. */
#ifndef EGRESSD_CONTAINER_H
#define EGRESSD_CONTAINER_H

#include "follow.h"

/* What the name of a cgroup says. internal/container of user space knows the same names. */
enum {
	NAME_UNREAD = 0,
	NAME_OTHER,     /* neither it nor what is in it is a container for us */
	NAME_AROUND,    /* containers come in it: a slice, a runtime's parent of all */
	NAME_CONTAINER, /* a container, or where there is nothing else */
};

/* How deep containers are looked for: as deep as user space does, below a root that is
 * some levels deep itself where egressd is in a container. */
#define MAX_HELD_LEVEL 12

/* The longest name that is told is a container's or a slice's; a longer one is taken for a slice's. */
#define NAME_SIZE 96
#define ID_SIZE 64 /* hexadecimal digits of a container's id */

/* Up to eight characters of a name as they are read. */
#define CHARS(a, b, c, d, e, f, g, h)                                                            \
	((__u64)(a) | (__u64)(b) << 8 | (__u64)(c) << 16 | (__u64)(d) << 24 | (__u64)(e) << 32 | \
	 (__u64)(f) << 40 | (__u64)(g) << 48 | (__u64)(h) << 56)
#define SEVEN(chars) ((chars)&0x00ffffffffffffff)

/* The length of what stands before the id in the name of a container; 0: it is of none.
 * Without the ending, podman's alone may be. */
static __always_inline __u32 id_begins(__u64 first, __u64 second, bool scope)
{
	if (SEVEN(first) == CHARS('l', 'i', 'b', 'p', 'o', 'd', '-', 0))
		return 7;
	if (!scope)
		return 0;
	if (SEVEN(first) == CHARS('d', 'o', 'c', 'k', 'e', 'r', '-', 0))
		return 7;
	if (first == CHARS('n', 'e', 'r', 'd', 'c', 't', 'l', '-'))
		return 8;
	if (first == CHARS('c', 'r', 'i', '-', 'c', 'o', 'n', 't') &&
	    SEVEN(second) == CHARS('a', 'i', 'n', 'e', 'r', 'd', '-', 0))
		return 15;
	return 0;
}

/* What a name says that is at an address of the kernel. */
__noinline __u32 egd_name_kind(__u64 name)
{
	__u64 w[NAME_SIZE / 8] = {};
	__u64 end, before = 0;
	__u32 begins;
	bool scope;
	long n; /* with the zero at the end */

	if (!(egd_reads & EGD_READS_CONTAINERS))
		return NAME_UNREAD; /* see egd_offsets */
	n = bpf_probe_read_kernel_str(w, sizeof(w), (void *)name);
	if (n <= 0)
		return NAME_UNREAD;
	if (n == NAME_SIZE)
		return NAME_AROUND;
	if (n == ID_SIZE + 1)
		return NAME_CONTAINER;
	/* The kubelet's: what is in there are pods, of which others tell. */
	if (w[0] == CHARS('k', 'u', 'b', 'e', 'p', 'o', 'd', 's'))
		return NAME_OTHER;
	if (n == 7 && w[0] == CHARS('d', 'o', 'c', 'k', 'e', 'r', 0, 0))
		return NAME_AROUND;
	if (n == 14 && w[0] == CHARS('l', 'i', 'b', 'p', 'o', 'd', '_', 'p') &&
	    w[1] == CHARS('a', 'r', 'e', 'n', 't', 0, 0, 0))
		return NAME_AROUND;
	/* containerd's namespace, in which names are what somebody chose: all that is in it is
	 * held as one. */
	if (n == 8 && w[0] == CHARS('d', 'e', 'f', 'a', 'u', 'l', 't', 0))
		return NAME_CONTAINER;
	if (n < 8)
		return NAME_OTHER;
	end = peek(name, n - 8);
	if (n >= 16)
		before = peek(name, n - 16);
	if (before == CHARS('-', 'k', 'u', 'b', 'e', 'p', 'o', 'd') &&
	    end == CHARS('s', '.', 's', 'l', 'i', 'c', 'e', 0))
		return NAME_OTHER;
	if (end >> 8 == CHARS('.', 's', 'l', 'i', 'c', 'e', 0, 0))
		return NAME_AROUND;
	scope = end >> 8 == CHARS('.', 's', 'c', 'o', 'p', 'e', 0, 0);
	begins = id_begins(w[0], w[1], scope);
	if (begins && n == begins + ID_SIZE + 1 + (scope ? 6 : 0))
		return NAME_CONTAINER;
	return NAME_OTHER;
}

/* The next cgroup, see egd_follow_step; below: what is in the last one is held if it is a
 * container. */
__noinline int egd_container_step(struct cgroup_walk *w, __u32 level)
{
	struct egd_workload *wl;
	__u64 node, id;
	__u32 kind;

	if (!w || !(egd_reads & EGD_READS_CONTAINERS))
		return STEP_UNREAD;
	node = read_node(w->cgroup, level);
	id = peek(node, egd_offsets.node_id);
	w->id = id;
	if (!id)
		return STEP_UNREAD;
	wl = bpf_map_lookup_elem(&egd_workloads, &id);
	if (wl)
		w->below = (wl->flags & EGD_WL_HOLDS) != 0;
	if (wl || !w->below)
		return STEP_ON;
	kind = egd_name_kind(peek(node, egd_offsets.node_name));
	if (kind == NAME_UNREAD)
		return STEP_UNREAD;
	w->below = kind == NAME_AROUND;
	return kind == NAME_CONTAINER ? STEP_FOUND : STEP_ON;
}

/* The id of the cgroup of the container that the calling process is in, which is in
 * egd_workloads then, if user space has not told of it and the nearest cgroup around it
 * that is a workload's has EGD_WL_HOLDS; 0: it is in none, EGD_NOBODY: that cannot be said. */
__noinline __u64 egd_container(void)
{
	struct cgroup_walk w = {};
	__u32 depth = 0, level;
	__u32 *known;
	__u64 id;

	if (!(egd_reads & EGD_READS_CONTAINERS))
		return 0; /* no workload has EGD_WL_HOLDS then */
	w.cgroup = read_cgroup(&depth);
	id = peek(peek(w.cgroup, egd_offsets.cgroup_node), egd_offsets.node_id);
	if (!id)
		return EGD_NOBODY;
	known = bpf_map_lookup_elem(&egd_beside, &id);
	if (known && *known == EGD_BESIDE_CONTAINERS)
		return 0;
	for (level = 0; level < MAX_HELD_LEVEL && level <= depth; level++) {
		switch (egd_container_step(&w, level)) {
		case STEP_ON:
			continue;
		case STEP_FOUND:
			return enter(w.id, EGD_HELD);
		}
		return EGD_NOBODY;
	}
	note_beside(w.cgroup, EGD_BESIDE_CONTAINERS);
	return 0;
}

#endif
