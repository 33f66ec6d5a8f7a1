// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Free memory that lies in single pages.
 *
 * Nearly all of it goes into a file in memory, then every second page frame is
 * given back. The pages that stay can be moved, as those of a page cache can, so
 * the kernel may make larger blocks again by compaction. Whether it does is for
 * the flags of the allocation to say: without __GFP_IO it does not compact on
 * its caller's behalf (try_to_compact_pages(), mm/compaction.c). What blocks
 * there still are then are taken too.
 *
 * Where the pages are to stay where they are, whoever asks for a block, they are
 * allocated as pages that cannot be moved. Some blocks of up to GROUP_ORDER are left
 * then, for what the kernel itself cannot do without.
 *
 * Nothing here reclaims or compacts memory, or wakes who does.
 */
#include <linux/bitmap.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched.h>
#include <linux/shmem_fs.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "slabprobe.h"

#define NO_RECLAIM	(__GFP_NORETRY | __GFP_NOWARN)
#define MIB_PAGES	(SZ_1M >> PAGE_SHIFT)
#define NR_ORDERS	ARRAY_SIZE(((struct zone *)NULL)->free_area)
#define MAX_REST	4096
#define GROUP_ORDER	3
#define GROUPS		64	/* one of so many is left */

/* The flags of a file in memory are of a type of their own since Linux 7.0. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
#define NO_FLAGS	EMPTY_VMA_FLAGS
#else
#define NO_FLAGS	0
#endif

struct blocks {
	unsigned long free[NR_ORDERS];
};

static struct file *file;
static struct {
	struct page *page;
	unsigned int order;
} rest[MAX_REST];
static unsigned int nr_rest;
static unsigned long asked_mib, filled, punched, rest_pages;
static struct blocks before, after;
static DEFINE_MUTEX(rest_lock);	/* of `rest` and `pinned` */
static struct page **pinned;
static unsigned long nr_pinned;

/* What /proc/buddyinfo has, of all zones together. */
static void count_blocks(struct blocks *blocks)
{
	unsigned int node, zone, order;

	memset(blocks, 0, sizeof(*blocks));
	for_each_online_node(node)
		for (zone = 0; zone < MAX_NR_ZONES; zone++)
			for (order = 0; order < NR_ORDERS; order++)
				blocks->free[order] += READ_ONCE(NODE_DATA(node)->node_zones[zone].free_area[order].nr_free);
}

/* As many pages as there are without reclaim; a bit is set for each that is to be given back. */
static unsigned long fill(unsigned long limit, unsigned long *odd)
{
	gfp_t gfp = (GFP_HIGHUSER_MOVABLE & ~__GFP_RECLAIM) | NO_RECLAIM;
	unsigned long at;

	for (at = 0; at < limit; at++) {
		struct page *page = shmem_read_mapping_page_gfp(file->f_mapping, at, gfp);

		if (IS_ERR(page))
			break;
		if (page_to_pfn(page) & 1)
			__set_bit(at, odd);
		put_page(page);
		cond_resched();
	}
	return at;
}

static unsigned long punch(unsigned long count, const unsigned long *odd)
{
	unsigned long at, holes = 0;

	for_each_set_bit(at, odd, count) {
		loff_t from = (loff_t)at << PAGE_SHIFT;

		shmem_truncate_range(file_inode(file), from, from + PAGE_SIZE - 1);
		holes++;
		cond_resched();
	}
	return holes;
}

/* Blocks that were left of the watermarks and of other zones, the largest first. */
static void take_rest(unsigned long limit, unsigned int least)
{
	unsigned int order;

	for (order = NR_ORDERS - 1; order >= least; order--)
		while (nr_rest < MAX_REST && rest_pages + (1UL << order) <= limit) {
			struct page *page = alloc_pages(NO_RECLAIM | __GFP_COMP, order);

			if (!page)
				break;
			rest[nr_rest].page = page;
			rest[nr_rest++].order = order;
			rest_pages += 1UL << order;
		}
}

void probe_fragment_end(void)
{
	mutex_lock(&rest_lock);
	while (nr_rest) {
		nr_rest--;
		__free_pages(rest[nr_rest].page, rest[nr_rest].order);
	}
	if (file)
		fput(file);
	file = NULL;
	while (nr_pinned)
		if (pinned[--nr_pinned])
			__free_page(pinned[nr_pinned]);
	kvfree(pinned);
	pinned = NULL;
	asked_mib = filled = punched = rest_pages = 0;
	mutex_unlock(&rest_lock);
}

static bool is_let_go(const struct page *page)
{
	unsigned long pfn = page_to_pfn(page);

	return pfn & 1 || (pfn >> GROUP_ORDER) % GROUPS == 0;
}

/* As probe_fragment(), with pages that cannot be moved. */
int probe_fragment_pinned(void)
{
	unsigned long i, limit = totalram_pages();

	if (file || pinned)
		return -EBUSY;
	pinned = kvcalloc(limit, sizeof(*pinned), GFP_KERNEL);
	if (!pinned)
		return -ENOMEM;
	asked_mib = limit / MIB_PAGES;
	count_blocks(&before);
	for (; nr_pinned < limit; nr_pinned++) {
		pinned[nr_pinned] = alloc_page((GFP_KERNEL & ~__GFP_RECLAIM) | NO_RECLAIM);
		if (!pinned[nr_pinned])
			break;
		cond_resched();
	}
	filled = nr_pinned;
	for (i = 0; i < nr_pinned; i++)
		if (is_let_go(pinned[i])) {
			__free_page(pinned[i]);
			pinned[i] = NULL;
			punched++;
			cond_resched();
		}
	mutex_lock(&rest_lock);
	take_rest(limit - filled, GROUP_ORDER + 1);
	mutex_unlock(&rest_lock);
	count_blocks(&after);
	return 0;
}

/*
 * Blocks that have come to be since: each CPU keeps pages for itself, in blocks too, and
 * gives them to all later (since Linux 6.7 within seconds).
 */
void probe_fragment_again(void)
{
	mutex_lock(&rest_lock);
	if (pinned)
		take_rest(totalram_pages() - filled, GROUP_ORDER + 1);
	mutex_unlock(&rest_lock);
}

bool probe_is_fragmented(void)
{
	return READ_ONCE(pinned) != NULL;
}

/* Once more takes the blocks that have come to be since. */
int probe_fragment(unsigned int mib)
{
	unsigned long limit = min_t(unsigned long, (unsigned long)mib * MIB_PAGES, totalram_pages());
	unsigned long *odd;

	if (!limit)
		return -EINVAL;
	if (pinned)
		return -EBUSY;
	if (file) {
		take_rest(limit > filled ? limit - filled : 0, 1);
		count_blocks(&after);
		return 0;
	}
	odd = kvcalloc(BITS_TO_LONGS(limit), sizeof(*odd), GFP_KERNEL);
	if (!odd)
		return -ENOMEM;
	file = shmem_file_setup(PROBE_NAME, (loff_t)limit << PAGE_SHIFT, NO_FLAGS);
	if (IS_ERR(file)) {
		int err = PTR_ERR(file);

		file = NULL;
		kvfree(odd);
		return err;
	}
	asked_mib = mib;
	count_blocks(&before);
	filled = fill(limit, odd);
	punched = punch(filled, odd);
	take_rest(limit - filled, 1);
	count_blocks(&after);
	kvfree(odd);
	return 0;
}

static void show_blocks(struct seq_file *m, const char *when, const struct blocks *blocks)
{
	unsigned int order;

	seq_printf(m, "blocks %s", when);
	for (order = 0; order < NR_ORDERS; order++)
		seq_printf(m, " %lu", blocks->free[order]);
	seq_putc(m, '\n');
}

void probe_fragment_show(struct seq_file *m)
{
	struct blocks now;

	seq_printf(m, "fragment mib=%lu filled=%lu punched=%lu rest=%lu\n", asked_mib, filled,
		   punched, rest_pages);
	count_blocks(&now);
	show_blocks(m, "now", &now);
	if (file || pinned) {
		show_blocks(m, "before", &before);
		show_blocks(m, "after", &after);
	}
}
