/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Captured cgroups are known by their names: one that goes and comes back (a unit
 * that is restarted, a container that is made anew) has another id, and its first
 * process may send before user space has heard of it. The programs are attached to
 * a cgroup above that stays. When a process connects, sends or makes a raw socket,
 * the name of its cgroup is read, and the id entered in egd_workloads, where all
 * programs find it, those too that see only the socket. */
#ifndef EGRESSD_FOLLOW_H
#define EGRESSD_FOLLOW_H

#include "maps.h"

/* The tree of cgroups that is searched for egd_config.above and the names below. */
#define MAX_FOLLOW_LEVEL 24

#define EEXIST 17

/* Written by the loader before the programs are loaded. Where it is zero the
 * verifier never sees the helpers, which a locked down kernel does not have. */
const volatile struct egd_offsets egd_offsets = {};

/* What names are read for, enum egd_read; likewise. */
const volatile __u32 egd_reads = 0;

static __always_inline struct egd_config *get_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&egd_config, &zero);
}

/* Reads a pointer or another 8 bytes of the kernel; 0 when that fails. */
static __always_inline __u64 peek(__u64 at, __u32 offset)
{
	__u64 v = 0;

	return at && !bpf_probe_read_kernel(&v, sizeof(v), (void *)(at + offset)) ? v : 0;
}

/* The hash of a name (loader's hashName), which is at an address of the kernel; 0: it
 * cannot be read. */
__noinline __u64 egd_hash_name(__u64 name)
{
	__u64 w[EGD_NAME_PIECE / 8];
	__u64 h = 0xcbf29ce484222325;
	long n;
	int i, j;

	if (!(egd_reads & EGD_READS_CAPTURED))
		return 0; /* see there */
	for (i = 0; i < EGD_NAME_PIECES; i++) {
		__builtin_memset(w, 0, sizeof(w));
		n = bpf_probe_read_kernel_str(w, sizeof(w), (void *)name);
		if (n <= 0)
			return 0;
		for (j = 0; j < EGD_NAME_PIECE / 8; j++) {
			h = (h ^ w[j]) * 0x100000001b3;
			h ^= h >> 32;
		}
		if (n < EGD_NAME_PIECE)
			return h;
		name += EGD_NAME_PIECE - 1;
	}
	return 0;
}

/* The cgroup of the calling process and how deep it is; 0: that cannot be read. */
static __always_inline __u64 read_cgroup(__u32 *depth)
{
	__u64 cgroup = peek(bpf_get_current_task(), egd_offsets.task_cgroups);

	cgroup = peek(cgroup, egd_offsets.css_set_cgroup);
	if (!cgroup || bpf_probe_read_kernel(depth, sizeof(*depth),
					     (void *)(cgroup + egd_offsets.cgroup_level)))
		return 0;
	return cgroup;
}

/* The kernfs_node of a cgroup, or of the one around it at a level; 0: it cannot be read. */
static __always_inline __u64 read_node(__u64 cgroup, __u32 level)
{
	cgroup = peek(cgroup, egd_offsets.cgroup_ancestors + level * 8);
	return peek(cgroup, egd_offsets.cgroup_node);
}

/* Enters a cgroup in egd_workloads as what the captured one of its name is, or as a
 * container that is held (EGD_HELD), which has its sockets itself as soon as it is known. */
static __always_inline __u64 enter(__u64 id, __u64 like)
{
	struct egd_workload *wl = bpf_map_lookup_elem(&egd_workloads, &like);
	struct egd_workload w;
	long err;

	if (!wl)
		return EGD_NOBODY;
	w = *wl;
	w.flags |= EGD_WL_FOUND;
	if (like == EGD_HELD) {
		w.flags |= EGD_WL_HELD;
		w.home = id;
	}
	err = bpf_map_update_elem(&egd_workloads, &id, &w, BPF_NOEXIST);
	return err && err != -EEXIST ? EGD_NOBODY : id;
}

/* The entry of all that is beside what is captured by name, if a cgroup is known to
 * be there. */
static __always_inline struct egd_workload *find_beside(__u64 id)
{
	struct egd_config *cfg = get_config();
	__u32 *what;

	if (!cfg || !cfg->above)
		return NULL;
	what = bpf_map_lookup_elem(&egd_beside, &id);
	if (!what || *what != EGD_BESIDE_CAPTURED)
		return NULL;
	return bpf_map_lookup_elem(&egd_workloads, &cfg->above);
}

/* How the cgroups around one are gone through, from the root. */
struct cgroup_walk {
	__u64 cgroup; /* the innermost: where the kernel has it */
	__u64 above;  /* of egd_config */
	__u64 id;     /* of the last one */
	__u64 like;   /* the captured cgroup that the last one is by its name; 0: none */
	__u32 from;   /* what names of the next ones stand behind, see egd_step */
	__u8 below;   /* the last one was above, or is below it */
	__u8 pad[3];
};

/* What a step comes to. */
enum {
	STEP_ON,
	STEP_FOUND,
	STEP_OTHER,  /* what is looked for is not there */
	STEP_UNREAD, /* it cannot be read */
};

/* The next cgroup. A function of its own, which the verifier reads once and not for
 * each level. */
__noinline int egd_follow_step(struct cgroup_walk *w, __u32 level)
{
	struct egd_step_key key = {};
	struct egd_step *step;
	__u64 node;

	if (!w || !(egd_reads & EGD_READS_CAPTURED))
		return STEP_UNREAD;
	node = read_node(w->cgroup, level);
	w->id = peek(node, egd_offsets.node_id);
	if (!w->id)
		return STEP_UNREAD;
	if (!w->below) {
		w->below = w->id == w->above;
		return STEP_ON;
	}
	key.from = w->from;
	key.hash = egd_hash_name(peek(node, egd_offsets.node_name));
	if (!key.hash)
		return STEP_UNREAD;
	step = bpf_map_lookup_elem(&egd_captured, &key);
	if (!step)
		return STEP_OTHER;
	w->like = step->like;
	w->from = step->step;
	return w->like ? STEP_FOUND : STEP_ON;
}

/* Notes that a cgroup is beside what is looked for. */
static __always_inline void note_beside(__u64 cgroup, __u32 what)
{
	__u64 id = peek(peek(cgroup, egd_offsets.cgroup_node), egd_offsets.node_id);

	if (id)
		bpf_map_update_elem(&egd_beside, &id, &what, BPF_ANY);
}

/* The id of the captured cgroup that the calling process is in by name, which is
 * in egd_workloads then; 0: it is in none, EGD_NOBODY: that cannot be said. */
__noinline __u64 egd_follow(void)
{
	struct egd_config *cfg = get_config();
	struct cgroup_walk w = {};
	__u32 depth = 0, level;

	if (!(egd_reads & EGD_READS_CAPTURED) || !cfg)
		return EGD_NOBODY;
	w.above = cfg->above;
	w.cgroup = read_cgroup(&depth);
	if (!w.cgroup)
		return EGD_NOBODY;
	for (level = 0; level <= MAX_FOLLOW_LEVEL && level <= depth; level++) {
		switch (egd_follow_step(&w, level)) {
		case STEP_ON:
			continue;
		case STEP_FOUND:
			return enter(w.id, w.like);
		case STEP_OTHER:
			note_beside(w.cgroup, EGD_BESIDE_CAPTURED);
			return 0;
		}
		return EGD_NOBODY;
	}
	return 0;
}

#endif
