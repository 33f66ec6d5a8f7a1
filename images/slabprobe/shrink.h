/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SLABPROBE_SHRINK_H
#define SLABPROBE_SHRINK_H

#include <linux/sched.h>
#include <linux/shrinker.h>
#include <linux/swap.h>
#include <linux/version.h>

/* A shrinker is allocated by the kernel since Linux commit c42d50aefd17 (in 6.7). */
#define PROBE_SHRINKER_IS_ALLOCATED (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0))

struct probe_shrinker {
	unsigned long (*count)(struct shrinker *shrinker, struct shrink_control *sc);
	unsigned long (*scan)(struct shrinker *shrinker, struct shrink_control *sc);
	long batch;			/* objects of one scan; 0: the kernel's own choice */
#if PROBE_SHRINKER_IS_ALLOCATED
	struct shrinker *shrinker;
#else
	struct shrinker shrinker;
#endif
};

int probe_shrinker_add(struct probe_shrinker *own);
void probe_shrinker_remove(struct probe_shrinker *own);

/* Reclaim that does not hear of what it got goes on to the OOM killer. */
static inline void probe_tell_reclaim(unsigned long pages)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	mm_account_reclaimed_pages(pages);
#else
	if (current->reclaim_state)
		current->reclaim_state->reclaimed_slab += pages;
#endif
}

#endif
