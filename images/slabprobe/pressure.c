// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Low memory: a thread that takes every free page down to the min watermark, and
 * goes on taking what reclaim gets back from it.
 *
 * What it holds is what a guest's page cache would be, memory that reclaim can
 * have: without that an allocation which may not ask a filesystem would wait for
 * ever. Reclaim has to come for it in small pieces, so that not only the first
 * of many allocations finds memory low.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/kthread.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/swap.h>
#include <linux/vmstat.h>
#include <linux/wait.h>

#include "slabprobe.h"
#include "shrink.h"

/* Pages that one pass of reclaim gets back, however urgent it is. */
#define PIECE	16

static LIST_HEAD(held_pages);
static DEFINE_SPINLOCK(held_lock);
static DECLARE_WAIT_QUEUE_HEAD(pressure_wq);
static struct task_struct *taker;
static bool pressing;
static unsigned long nr_held;
static atomic64_t taken, given, refused;

/*
 * Below the min watermark there is nothing for who may neither reclaim nor dip
 * into reserves. kswapd is not woken: it would keep memory above the watermark.
 */
static bool take_page(void)
{
	struct page *page = alloc_page(__GFP_NOWARN);

	if (!page) {
		atomic64_inc(&refused);
		return false;
	}
	atomic64_inc(&taken);
	spin_lock(&held_lock);
	list_add(&page->lru, &held_pages);
	nr_held++;
	spin_unlock(&held_lock);
	return true;
}

static unsigned long give_pages(unsigned long count)
{
	unsigned long n;

	for (n = 0; n < count; n++) {
		struct page *page;

		spin_lock(&held_lock);
		page = list_first_entry_or_null(&held_pages, struct page, lru);
		if (page) {
			list_del(&page->lru);
			nr_held--;
		}
		spin_unlock(&held_lock);
		if (!page)
			break;
		__free_page(page);
	}
	atomic64_add(n, &given);
	return n;
}

static int slabprobe_take(void *unused)
{
	while (!kthread_should_stop()) {
		wait_event_idle(pressure_wq, READ_ONCE(pressing) || kthread_should_stop());
		while (READ_ONCE(pressing) && take_page())
			cond_resched();
		usleep_range(500, 1000);
	}
	return 0;
}

static unsigned long slabprobe_held_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	return min_t(unsigned long, READ_ONCE(nr_held), PIECE);
}

static unsigned long slabprobe_held_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	unsigned long n = give_pages(sc->nr_to_scan);

	probe_tell_reclaim(n);
	return n ? n : SHRINK_STOP;
}

static struct probe_shrinker held_shrinker = {
	.count = slabprobe_held_count,
	.scan = slabprobe_held_scan,
	.batch = PIECE,
};

int probe_pressure_set(bool on)
{
	WRITE_ONCE(pressing, on);
	wake_up_all(&pressure_wq);
	if (!on)
		give_pages(ULONG_MAX);
	return 0;
}

int probe_pressure_init(void)
{
	int err = probe_shrinker_add(&held_shrinker);

	if (err)
		return err;
	taker = kthread_run(slabprobe_take, NULL, PROBE_NAME "/mem");
	if (!IS_ERR(taker))
		return 0;
	probe_shrinker_remove(&held_shrinker);
	return PTR_ERR(taker);
}

void probe_pressure_exit(void)
{
	probe_pressure_set(false);
	kthread_stop(taker);
	/* It may have taken one more. */
	give_pages(ULONG_MAX);
	probe_shrinker_remove(&held_shrinker);
}

/* Pages below which memory is a reserve, of all zones together. */
static unsigned long reserve(void)
{
	unsigned int node, zone;
	unsigned long pages = 0;

	for_each_online_node(node)
		for (zone = 0; zone < MAX_NR_ZONES; zone++)
			pages += READ_ONCE(NODE_DATA(node)->node_zones[zone]._watermark[WMARK_MIN]);
	return pages;
}

void probe_pressure_show(struct seq_file *m)
{
	seq_printf(m, "pressure on=%d held=%lu taken=%lld given=%lld refused=%lld free=%lu min=%lu\n",
		   READ_ONCE(pressing), READ_ONCE(nr_held), atomic64_read(&taken),
		   atomic64_read(&given), atomic64_read(&refused),
		   global_zone_page_state(NR_FREE_PAGES), reserve());
}
