// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The trap: the deadlock that SPL's worker and emergency objects were made for.
 *
 * A thread that writes data back allocates an object and then commits. The
 * growth of its cache needs a page table, the allocation of that reclaims
 * memory, and a filesystem's shrinker waits until the transaction commits. The
 * shrinker here does just that for whoever grows the cache, and declines, as a
 * filesystem's does, where the flags do not allow it (no __GFP_FS). Whether
 * they do is for SPL and the kernel to say: nothing here sets or clears a flag.
 *
 * That memory is low just then is made sure of (induced): each page table of
 * the growth is preceded by a call of the kernel's own try_to_free_pages(), with
 * the mask that page tables are allocated with. Or it is left to chance
 * (organic): then the shrinker is only asked if the guest really is short of
 * memory at that moment, which pressure.c can see to.
 */
#include <linux/atomic.h>
#include <linux/gfp.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/swap.h>
#include <linux/topology.h>
#include <linux/vmalloc.h>
#include <linux/wait.h>
#include <asm/pgalloc.h>

#include "slabprobe.h"
#include "hook.h"
#include "shrink.h"

/* Tasks that may grow the cache at one time: SPL lets one do it, or each caller. */
#define NR_GROWERS	(PROBE_MAX_THREADS + 8)
/* Enough for reclaim to ask the shrinker at its first, least urgent pass. */
#define PINNED_OBJECTS	(1UL << 20)
/* Mappings that keep the growth off the page tables there are: so many a round, and in all. */
#define BALLAST_ROUND	64
#define BALLAST_MAX	4096
#define BALLAST_PAGES	4096

struct probe_grower {
	struct task_struct *task;
	bool in_table;		/* it allocates a page table, and the trap is set */
	bool asked;		/* the shrinker has been asked meanwhile */
	u64 until;		/* commits that it waits for, 0: it does not wait */
};

static struct probe_grower growers[NR_GROWERS];
static DECLARE_WAIT_QUEUE_HEAD(commit_wq);
static enum probe_trap trap;
static bool spent;		/* somebody has been caught since the trap was set */
static unsigned int wait_commits;
static atomic64_t commits = ATOMIC64_INIT(0);
static atomic64_t carried = ATOMIC64_INIT(0);
static atomic64_t tables, induced, sprung, declined, entered, waited, let_go;
static atomic64_t reserves;	/* page tables of a growth that might be made of these */
static atomic_t waiting = ATOMIC_INIT(0);
static pid_t trap_pid;
static u64 trap_since_ns, trap_released_ns;
static gfp_t asked_gfp;

static typeof(&try_to_free_pages) reclaim;
static struct probe_hook table_hook;

static struct page *ballast_page;
static void *ballast[BALLAST_MAX];
static unsigned int nr_ballast;
static u64 ballast_bytes;
static unsigned long topmost;	/* address of a slab object of this round */
static unsigned long highest;	/* of a slab object or a mapping ever */

/* Begun by a task that grows the cache; NULL when there are too many, which are left alone. */
struct probe_grower *probe_grow_begin(void)
{
	unsigned int i;

	for (i = 0; i < NR_GROWERS; i++)
		if (!cmpxchg(&growers[i].task, NULL, current))
			return &growers[i];
	return NULL;
}

void probe_grow_end(struct probe_grower *grower)
{
	if (grower)
		smp_store_release(&grower->task, NULL);
}

static struct probe_grower *find_grower(void)
{
	unsigned int i;

	for (i = 0; i < NR_GROWERS; i++)
		if (READ_ONCE(growers[i].task) == current)
			return &growers[i];
	return NULL;
}

/* What the page allocator does around it, __perform_reclaim(). */
static void slabprobe_induce(void)
{
	unsigned int flags = memalloc_noreclaim_save();

	atomic64_inc(&induced);
	reclaim(node_zonelist(numa_node_id(), GFP_PGTABLE_KERNEL), 0,
		GFP_PGTABLE_KERNEL, NULL);
	memalloc_noreclaim_restore(flags);
}

/* Reclaim does not reclaim for its own page tables, and a trap catches once. */
static bool trap_is_set(void)
{
	return READ_ONCE(trap) != PROBE_TRAP_OFF && !READ_ONCE(spent) &&
	       !(current->flags & PF_MEMALLOC);
}

static typeof(__pte_alloc_kernel) slabprobe_pte_alloc_kernel;

static int slabprobe_pte_alloc_kernel(pmd_t *pmd)
{
	typeof(&__pte_alloc_kernel) original = probe_hook_enter(&table_hook);
	struct probe_grower *grower = find_grower();
	int err;

	if (grower && READ_ONCE(trap) != PROBE_TRAP_OFF && current->flags & PF_MEMALLOC)
		atomic64_inc(&reserves);
	if (grower && trap_is_set()) {
		atomic64_inc(&tables);
		grower->asked = false;
		grower->in_table = true;
		if (READ_ONCE(trap) == PROBE_TRAP_INDUCED)
			slabprobe_induce();
	}
	err = original(pmd);
	if (grower)
		grower->in_table = false;
	probe_hook_leave(&table_hook);
	return err;
}

static struct probe_hook table_hook = {
	.name = "__pte_alloc_kernel",
	.replacement = slabprobe_pte_alloc_kernel,
};

static bool committed(const struct probe_grower *grower)
{
	return atomic64_read(&commits) >= READ_ONCE(grower->until);
}

/*
 * The wait on which everything turns. Only a commit that ends it wakes it, so
 * the task's count of context switches stands still for as long as it lasts.
 */
static noinline void slabprobe_wait_commit(struct probe_grower *grower)
{
	WRITE_ONCE(trap_pid, task_pid_nr(current));
	WRITE_ONCE(trap_since_ns, ktime_get_ns());
	WRITE_ONCE(grower->until, atomic64_read(&commits) + wait_commits);
	atomic64_inc(&entered);
	atomic_inc(&waiting);
	wait_event(commit_wq, committed(grower) || READ_ONCE(trap) == PROBE_TRAP_OFF);
	atomic64_inc(committed(grower) ? &waited : &let_go);
	WRITE_ONCE(grower->until, 0);
	WRITE_ONCE(trap_released_ns, ktime_get_ns());
	atomic_dec(&waiting);
}

/* Once for each page table, however many passes reclaim makes. There is nothing for others. */
static unsigned long slabprobe_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct probe_grower *grower = find_grower();

	return grower && grower->in_table && !grower->asked ? PINNED_OBJECTS : 0;
}

static noinline unsigned long slabprobe_shrink_scan(struct shrinker *shrinker,
						    struct shrink_control *sc)
{
	struct probe_grower *grower = find_grower();

	if (!grower || !grower->in_table || grower->asked)
		return SHRINK_STOP;
	grower->asked = true;
	WRITE_ONCE(asked_gfp, sc->gfp_mask);
	atomic64_inc(&sprung);
	if (!(sc->gfp_mask & __GFP_FS)) {
		atomic64_inc(&declined);
		return SHRINK_STOP;
	}
	WRITE_ONCE(spent, true);
	slabprobe_wait_commit(grower);
	return sc->nr_to_scan;
}

static struct probe_shrinker trap_shrinker = {
	.count = slabprobe_shrink_count,
	.scan = slabprobe_shrink_scan,
};

/* Nobody is woken whose condition does not hold. */
void probe_commit(bool with_emergency)
{
	u64 now = atomic64_inc_return(&commits);
	unsigned int i;

	if (with_emergency)
		atomic64_inc(&carried);
	for (i = 0; i < NR_GROWERS; i++) {
		u64 until = READ_ONCE(growers[i].until);

		if (until && now >= until) {
			wake_up_all(&commit_wq);
			return;
		}
	}
}

/* One page, mapped as often as a slab has pages: it takes a slab's place and next to no memory. */
static void *map_ballast(size_t slab_size)
{
	static struct page *pages[BALLAST_PAGES];
	unsigned int i, count = min_t(size_t, PFN_UP(slab_size), BALLAST_PAGES);

	for (i = 0; i < count; i++)
		pages[i] = ballast_page;
	ballast_bytes += (u64)count << PAGE_SHIFT;
	return vmap(pages, count, VM_MAP, PAGE_KERNEL);
}

/* Called for each object of a transaction that lies in a slab. */
void probe_push_note(const void *obj)
{
	topmost = max(topmost, (unsigned long)obj);
}

/*
 * A page table of the vmalloc area is never given back, so a growth comes to
 * need one only where no mapping ever was. If all slabs of the last round lay
 * below the highest address seen, holes there are filled until one is not.
 */
void probe_push_on(size_t slab_size)
{
	unsigned long top = topmost;
	unsigned int i;

	topmost = 0;
	if (top > highest)
		highest = top;
	else if (!top || !trap_is_set())
		return;
	if (top == highest)
		return;
	for (i = 0; i < BALLAST_ROUND && nr_ballast < BALLAST_MAX; i++) {
		void *filler = map_ballast(slab_size);

		if (!filler)
			return;
		ballast[nr_ballast++] = filler;
		if ((unsigned long)filler > highest) {
			highest = (unsigned long)filler;
			return;
		}
	}
}

static void drop_ballast(void)
{
	while (nr_ballast)
		vunmap(ballast[--nr_ballast]);
}

int probe_trap_set(enum probe_trap wish, unsigned int commits_to_wait_for)
{
	int err;

	if (wish == PROBE_TRAP_OFF) {
		WRITE_ONCE(trap, wish);
		wake_up_all(&commit_wq);
		return 0;
	}
	if (!commits_to_wait_for)
		return -EBUSY;
	if (!reclaim)
		reclaim = (void *)probe_find_function("try_to_free_pages");
	if (!reclaim)
		return -ENOENT;
	err = probe_hook_enable(&table_hook);
	if (err)
		return err;
	wait_commits = commits_to_wait_for;
	WRITE_ONCE(spent, false);
	WRITE_ONCE(trap, wish);
	return 0;
}

int probe_cycle_init(void)
{
	int err;

	ballast_page = alloc_page(GFP_KERNEL);
	if (!ballast_page)
		return -ENOMEM;
	err = probe_shrinker_add(&trap_shrinker);
	if (err)
		__free_page(ballast_page);
	return err;
}

/* No thread is left, and whoever waited was let go by probe_trap_set(). */
void probe_cycle_exit(void)
{
	probe_hook_disable(&table_hook);
	probe_shrinker_remove(&trap_shrinker);
	drop_ballast();
	__free_page(ballast_page);
}

void probe_cycle_show(struct seq_file *m)
{
	static const char * const modes[] = { "off", "induced", "organic" };

	seq_printf(m, "trap mode=%s spent=%d tables=%lld induced=%lld sprung=%lld declined=%lld entered=%lld",
		   modes[READ_ONCE(trap)], READ_ONCE(spent), atomic64_read(&tables),
		   atomic64_read(&induced), atomic64_read(&sprung),
		   atomic64_read(&declined), atomic64_read(&entered));
	seq_printf(m, " waited=%lld let_go=%lld waiting=%d pid=%d since_ns=%llu released_ns=%llu gfp=%#x reserves=%lld\n",
		   atomic64_read(&waited), atomic64_read(&let_go),
		   atomic_read(&waiting), READ_ONCE(trap_pid),
		   READ_ONCE(trap_since_ns), READ_ONCE(trap_released_ns),
		   (__force unsigned int)READ_ONCE(asked_gfp), atomic64_read(&reserves));
	seq_printf(m, "tx commits=%lld carried=%lld ballast=%u ballast_kib=%llu\n",
		   atomic64_read(&commits), atomic64_read(&carried),
		   READ_ONCE(nr_ballast), READ_ONCE(ballast_bytes) >> 10);
}
