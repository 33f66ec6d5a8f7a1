// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a free costs while many objects are held.
 *
 * SPL looks up each emergency object that is given back. As they came in 2012
 * they were in a list, and a look-up walked it; since then they are in a tree.
 * Costs are kept in order, so that the median is at hand.
 */
#include <linux/spinlock.h>
#include <linux/string.h>

#include "slabprobe.h"

#define NR_LEVELS	4
#define NR_COSTS	256

/* Frees were timed with this many objects held besides. */
struct level {
	unsigned int kept, objects, batches;
	u64 costs_ns[NR_COSTS];		/* of a batch, the lowest first */
};

static struct level levels[NR_LEVELS];
static DEFINE_SPINLOCK(levels_lock);

void probe_kept_reset(void)
{
	spin_lock(&levels_lock);
	memset(levels, 0, sizeof(levels));
	spin_unlock(&levels_lock);
}

static struct level *find_level(unsigned int kept)
{
	unsigned int i;

	for (i = 0; i < NR_LEVELS; i++)
		if (!levels[i].kept || levels[i].kept == kept)
			return &levels[i];
	return NULL;
}

/* Of a batch of frees. When there are NR_COSTS, the rest is left out. */
void probe_kept_note(unsigned int kept, unsigned int objects, u64 cost_ns)
{
	struct level *level;
	unsigned int at;

	spin_lock(&levels_lock);
	level = find_level(kept);
	if (level && level->batches < NR_COSTS) {
		level->kept = kept;
		level->objects = objects;
		for (at = level->batches++; at && level->costs_ns[at - 1] > cost_ns; at--)
			level->costs_ns[at] = level->costs_ns[at - 1];
		level->costs_ns[at] = cost_ns;
	}
	spin_unlock(&levels_lock);
}

void probe_kept_show(struct seq_file *m)
{
	const struct level *level;

	spin_lock(&levels_lock);
	for (level = levels; level < levels + NR_LEVELS && level->kept; level++)
		seq_printf(m, "kept %u objects=%u batches=%u min_ns=%llu median_ns=%llu\n",
			   level->kept, level->objects, level->batches,
			   level->costs_ns[0], level->costs_ns[level->batches / 2]);
	spin_unlock(&levels_lock);
}
