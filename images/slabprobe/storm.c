// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The storm: transactions that allocate in every way SPL has, and reclaim at the
 * sites where they do, as the kernel itself may reclaim there at any time.
 *
 * The allocation's own mask goes along, and the kernel applies the thread's marks
 * to it (current_gfp_context()), so nothing here sets or clears a flag. Shrinkers
 * are asked, and one of them behaves as a filesystem's that waits until the open
 * transactions are committed: where __GFP_FS is set (a filesystem's), or __GFP_IO
 * (what a swap device on the transaction's own storage comes to). Who waits for
 * its own transaction, or for one that waits for it, waits for ever.
 *
 * Reclaim is cut short: the shrinker says that it got what was asked for, or each
 * of thousands of reclaims would go on to the most urgent pass.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/hash.h>
#include <linux/kallsyms.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/swap.h>
#include <linux/topology.h>
#include <linux/wait.h>

#include "slabprobe.h"
#include "hook.h"
#include "shrink.h"
#include "sites.h"

#define NR_INSIDE	64
#define NR_TX		4
#define NR_ONLY		64
#define PINNED_OBJECTS	(1UL << 20)
#define TRAP_FS		1
#define TRAP_IO		2
#define BY_RECLAIM	1
#define BY_SHRINKERS	2

/* A task that reclaims at a site. */
struct storm_task {
	struct task_struct *task;
	struct probe_site *site;
	bool asked;
	u64 before;		/* it waits for transactions that were opened before this one, 0: for none */
	u64 since_ns;
	gfp_t gfp;
};

/* Who makes transactions. */
struct storm_tx {
	struct task_struct *task;
	u64 number;		/* of the open transaction, 0: none is open */
	u64 commits;
	bool runs;
};

static struct probe_storm_config config = {
	.ops = ~PROBE_OPS_THREADED, .rate = 1, .trap = TRAP_FS | TRAP_IO, .mark = 1, .threads = 3,
	.how = BY_RECLAIM | BY_SHRINKERS, .seed = 1,
};

static struct storm_task insiders[NR_INSIDE];
static struct storm_tx txs[NR_TX];
static DECLARE_WAIT_QUEUE_HEAD(storm_wq);
static bool running, letting_go;
static atomic64_t opened = ATOMIC64_INIT(0);
static atomic64_t draws = ATOMIC64_INIT(0);
static atomic64_t reclaims, shrinks, crowded, asked, declined, entered, waited, let_go, by_kswapd;
static atomic_t waiting = ATOMIC_INIT(0);
static pid_t caught_pid;
static u64 caught_since_ns, left_ns;
static unsigned int caught_site;
static gfp_t caught_gfp, asked_gfp;

/* Return addresses in the module; if there are any, there is no reclaim elsewhere. */
static unsigned long only[NR_ONLY];
static unsigned int nr_only;

static typeof(&try_to_free_pages) reclaim;
static unsigned long (*shrink_all)(gfp_t gfp, int nid, struct mem_cgroup *memcg, int priority);
static struct mem_cgroup *(*next_memcg)(struct mem_cgroup *root, struct mem_cgroup *prev, void *cookie);

static struct storm_task *find_insider(void)
{
	unsigned int i;

	for (i = 0; i < NR_INSIDE; i++)
		if (READ_ONCE(insiders[i].task) == current)
			return &insiders[i];
	return NULL;
}

static struct storm_task *go_inside(struct probe_site *site)
{
	unsigned int i;

	for (i = 0; i < NR_INSIDE; i++)
		if (!cmpxchg(&insiders[i].task, NULL, current)) {
			insiders[i].site = site;
			insiders[i].asked = false;
			return &insiders[i];
		}
	return NULL;
}

bool probe_storm_wants(bool helper, unsigned long caller)
{
	unsigned int i;
	u64 draw;

	if (!READ_ONCE(running) || !config.rate)
		return false;
	if (helper ? !config.helpers : config.helpers == 2)
		return false;
	for (i = 0; i < nr_only; i++)
		if (only[i] == caller)
			break;
	if (nr_only && i == nr_only)
		return false;
	draw = atomic64_inc_return(&draws);
	return config.rate == 1 || hash_64(draw ^ ((u64)config.seed << 32), 32) % config.rate == 0;
}

/* What the page allocator does around it, __perform_reclaim(). */
static noinline void slabprobe_storm_reclaim(gfp_t gfp)
{
	atomic64_inc(&reclaims);
	reclaim(node_zonelist(numa_node_id(), gfp), 0, gfp, NULL);
}

/* What drop_slab() does, with the mask of the allocation. */
static noinline void slabprobe_storm_shrink(gfp_t gfp)
{
	struct mem_cgroup *memcg = next_memcg(NULL, NULL, NULL);

	atomic64_inc(&shrinks);
	shrink_all(current_gfp_context(gfp), numa_node_id(), memcg, 0);
#ifdef CONFIG_MEMCG
	if (memcg)
		mem_cgroup_put(memcg);
#endif
}

void probe_storm_reclaim(struct probe_site *site, gfp_t gfp)
{
	struct storm_task *me = go_inside(site);
	unsigned int flags;
	bool shrinkers;

	if (!me) {
		atomic64_inc(&crowded);
		return;
	}
	shrinkers = shrink_all && config.how & BY_SHRINKERS &&
		    (!(config.how & BY_RECLAIM) || atomic64_read(&draws) & 1);
	/* A kernel with lockdep learns here which locks reclaim takes; it is told before PF_MEMALLOC is set. */
	fs_reclaim_acquire(gfp);
	flags = memalloc_noreclaim_save();
	if (shrinkers)
		slabprobe_storm_shrink(gfp);
	else
		slabprobe_storm_reclaim(gfp);
	memalloc_noreclaim_restore(flags);
	fs_reclaim_release(gfp);
	smp_store_release(&me->task, NULL);
}

static bool is_committed(u64 before)
{
	unsigned int i;

	for (i = 0; i < NR_TX; i++) {
		u64 number = READ_ONCE(txs[i].number);

		if (number && number <= before)
			return false;
	}
	return true;
}

/* Only what ends the wait wakes it, so the task's count of context switches stands still meanwhile. */
static noinline void slabprobe_storm_wait(struct storm_task *me, gfp_t gfp)
{
	u64 before = atomic64_read(&opened);

	WRITE_ONCE(caught_pid, task_pid_nr(current));
	WRITE_ONCE(caught_site, probe_site_id(me->site));
	WRITE_ONCE(caught_gfp, gfp);
	WRITE_ONCE(caught_since_ns, ktime_get_ns());
	atomic64_inc(&entered);
	probe_site_entered(me->site);
	me->gfp = gfp;
	WRITE_ONCE(me->since_ns, ktime_get_ns());
	WRITE_ONCE(me->before, before);
	atomic_inc(&waiting);
	wait_event(storm_wq, is_committed(before) || READ_ONCE(letting_go));
	atomic64_inc(is_committed(before) ? &waited : &let_go);
	WRITE_ONCE(me->before, 0);
	WRITE_ONCE(left_ns, ktime_get_ns());
	probe_site_left(me->site);
	atomic_dec(&waiting);
}

static void wake_committed(void)
{
	unsigned int i;

	for (i = 0; i < NR_INSIDE; i++) {
		u64 before = READ_ONCE(insiders[i].before);

		if (before && is_committed(before)) {
			wake_up_all(&storm_wq);
			return;
		}
	}
}

static bool forbids_nothing(gfp_t gfp)
{
	return (config.trap & TRAP_FS && gfp & __GFP_FS) || (config.trap & TRAP_IO && gfp & __GFP_IO);
}

/* There is nothing for others; and once for each reclaim. */
static unsigned long slabprobe_storm_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct storm_task *me;

	if (!READ_ONCE(running))
		return 0;
	if (current_is_kswapd()) {
		atomic64_inc(&by_kswapd);
		return 0;
	}
	me = find_insider();
	return me && !me->asked ? PINNED_OBJECTS : 0;
}

static noinline unsigned long slabprobe_storm_scan(struct shrinker *shrinker,
						   struct shrink_control *sc)
{
	struct storm_task *me = find_insider();

	if (!me || me->asked)
		return SHRINK_STOP;
	me->asked = true;
	atomic64_inc(&asked);
	WRITE_ONCE(asked_gfp, sc->gfp_mask);
	if (forbids_nothing(sc->gfp_mask)) {
		slabprobe_storm_wait(me, sc->gfp_mask);
	} else {
		atomic64_inc(&declined);
		probe_site_declined(me->site);
	}
	probe_tell_reclaim(sc->nr_to_scan);
	return SHRINK_STOP;
}

static struct probe_shrinker storm_shrinker = {
	.count = slabprobe_storm_count,
	.scan = slabprobe_storm_scan,
};
static bool has_shrinker;

/* Stacks show it as long as a transaction is open. */
static noinline void slabprobe_storm_transaction(struct storm_tx *tx)
{
	/* Opened before it has a number that others can see: who waits meanwhile waits for one less. */
	WRITE_ONCE(tx->number, atomic64_inc_return(&opened));
	probe_ops_run(config.ops & ~PROBE_OPS_THREADED, tx->commits);
	if (config.helpers)
		probe_ops_run(config.ops & PROBE_OPS_THREADED, tx->commits);
	WRITE_ONCE(tx->number, 0);
	/* Who sees the number gone sees it as committed. */
	smp_mb();
	WRITE_ONCE(tx->commits, tx->commits + 1);
	wake_committed();
}

static void make_transactions(struct storm_tx *tx)
{
	WRITE_ONCE(tx->task, current);
	while (READ_ONCE(running)) {
		slabprobe_storm_transaction(tx);
		/* Threads are made by others, who are not marked: within a transaction only where that is asked for. */
		if (!config.helpers)
			probe_ops_run(config.ops & PROBE_OPS_THREADED, tx->commits);
		usleep_range(500, 1000);
	}
	smp_store_release(&tx->runs, false);
}

static int storm_thread(void *data)
{
	if (config.mark)
		probe_ops_mark();
	make_transactions(data);
	while (!kthread_should_stop())
		schedule_timeout_idle(HZ / 50 + 1);
	return 0;
}

/* In a thread of SPL's own, which marks it. */
static void storm_task(void *data)
{
	make_transactions(data);
}

bool probe_storm_runs(void)
{
	unsigned int i;

	for (i = 0; i < NR_TX; i++)
		if (smp_load_acquire(&txs[i].runs))
			return true;
	return false;
}

void probe_storm_config(struct probe_storm_config *out)
{
	*out = config;
}

int probe_storm_set(const struct probe_storm_config *wish)
{
	if (READ_ONCE(running) || probe_storm_runs())
		return -EBUSY;
	if (!(wish->ops & probe_ops_all()) || wish->trap > 3 || wish->mark > 1 || wish->helpers > 2 ||
	    wish->threads < 1 || wish->threads > 3 || wish->how < 1 || wish->how > 3)
		return -EINVAL;
	config = *wish;
	config.ops &= probe_ops_all();
	return 0;
}

/* The address at this offset of a function; 0: there is none. A function may begin before its first probe (ENDBR). */
static unsigned long find_address(const char *function, unsigned long offset)
{
	unsigned long first = probe_find_function(function), at;
	char wanted[KSYM_NAME_LEN + 32], name[KSYM_SYMBOL_LEN];

	scnprintf(wanted, sizeof(wanted), "%s+%#lx/", function, offset);
	for (at = first; first && at >= first - 8; at -= 4) {
		scnprintf(name, sizeof(name), "%pS", (void *)(at + offset));
		if (!strncmp(name, wanted, strlen(wanted)))
			return at + offset;
	}
	return 0;
}

/* NULL: everywhere again. The offset is that of a return address, as a stack has it. */
int probe_storm_only(const char *function, unsigned long offset)
{
	unsigned long address;

	if (READ_ONCE(running))
		return -EBUSY;
	if (!function) {
		nr_only = 0;
		return 0;
	}
	if (nr_only == NR_ONLY)
		return -ENOSPC;
	address = find_address(function, offset);
	if (!address || !probe_sites_owns(address))
		return -ENOENT;
	only[nr_only++] = address;
	return 0;
}

static struct task_struct *own_thread;

int probe_storm_start(void)
{
	int err;

	if (READ_ONCE(running) || probe_storm_runs())
		return -EBUSY;
	/* The last one's has come to its end. */
	if (own_thread)
		kthread_stop(own_thread);
	own_thread = NULL;
	if (!reclaim)
		reclaim = (void *)probe_find_function("try_to_free_pages");
	if (!shrink_all && !next_memcg) {
		next_memcg = (void *)probe_find_function("mem_cgroup_iter");
		/* Where the compiler has put it into its callers there is the other way alone. */
		shrink_all = next_memcg ? (void *)probe_find_function("shrink_slab") : NULL;
	}
	if (!reclaim || (!shrink_all && config.how == BY_SHRINKERS))
		return -ENOENT;
	if (!has_shrinker) {
		err = probe_shrinker_add(&storm_shrinker);
		if (err)
			return err;
		has_shrinker = true;
	}
	err = probe_ops_init(config.ops);
	if (err)
		return err;
	WRITE_ONCE(letting_go, false);
	WRITE_ONCE(running, true);
	if (config.threads & 1) {
		txs[0].runs = true;
		own_thread = kthread_run(storm_thread, &txs[0], PROBE_NAME "/tx");
		if (IS_ERR(own_thread)) {
			err = PTR_ERR(own_thread);
			own_thread = NULL;
			txs[0].runs = false;
			goto stop;
		}
	}
	if (config.threads & 2) {
		txs[1].runs = true;
		err = probe_ops_dispatch(storm_task, &txs[1]);
		if (err) {
			txs[1].runs = false;
			goto stop;
		}
	}
	return 0;
stop:
	probe_storm_stop();
	return err;
}

/* Nobody is waited for: who is stuck elsewhere would keep the agent from telling. */
void probe_storm_stop(void)
{
	WRITE_ONCE(running, false);
	WRITE_ONCE(letting_go, true);
	wake_up_all(&storm_wq);
}

/* Whoever is inside is waited for, and named. */
void probe_storm_exit(void)
{
	unsigned int i, rounds = 0;

	probe_storm_stop();
	while (probe_storm_runs()) {
		for (i = 0; i < NR_TX && rounds % 50 == 49; i++)
			if (READ_ONCE(txs[i].runs))
				pr_warn(PROBE_NAME ": waiting for %s (pid %d), which is in a transaction\n",
					txs[i].task->comm, task_pid_nr(txs[i].task));
		rounds++;
		schedule_timeout_uninterruptible(HZ / 10);
	}
	if (own_thread)
		kthread_stop(own_thread);
	probe_ops_exit();
	if (has_shrinker)
		probe_shrinker_remove(&storm_shrinker);
}

void probe_storm_show(struct seq_file *m)
{
	unsigned int i;

	seq_printf(m, "storm running=%d idle=%d ops=%#x rate=%u trap=%u mark=%u helpers=%u threads=%u how=%u seed=%u only=%u",
		   READ_ONCE(running), !probe_storm_runs(), config.ops, config.rate, config.trap,
		   config.mark, config.helpers, config.threads, config.how, config.seed, nr_only);
	seq_printf(m, " reclaims=%lld shrinks=%lld crowded=%lld asked=%lld declined=%lld entered=%lld waited=%lld let_go=%lld waiting=%d",
		   atomic64_read(&reclaims), atomic64_read(&shrinks), atomic64_read(&crowded),
		   atomic64_read(&asked), atomic64_read(&declined), atomic64_read(&entered),
		   atomic64_read(&waited), atomic64_read(&let_go), atomic_read(&waiting));
	seq_printf(m, " pid=%d since_ns=%llu left_ns=%llu site=%u gfp=%#x asked_gfp=%#x kswapd=%lld failed=%llu\n",
		   READ_ONCE(caught_pid), READ_ONCE(caught_since_ns), READ_ONCE(left_ns),
		   READ_ONCE(caught_site), (__force unsigned int)READ_ONCE(caught_gfp),
		   (__force unsigned int)READ_ONCE(asked_gfp), atomic64_read(&by_kswapd),
		   probe_ops_failed());
	for (i = 0; i < NR_INSIDE; i++) {
		struct task_struct *task = READ_ONCE(insiders[i].task);

		/* Who waits does not go away, and who comes free meanwhile is told of once more. */
		if (task && READ_ONCE(insiders[i].before))
			seq_printf(m, "stormwait %u pid=%d since_ns=%llu site=%u gfp=%#x\n", i,
				   task_pid_nr(task), READ_ONCE(insiders[i].since_ns),
				   probe_site_id(insiders[i].site),
				   (__force unsigned int)insiders[i].gfp);
	}
	for (i = 0; i < NR_TX; i++)
		if (READ_ONCE(txs[i].task))
			seq_printf(m, "stormtx %u pid=%d open=%d commits=%llu\n", i,
				   task_pid_nr(txs[i].task), READ_ONCE(txs[i].number) != 0,
				   READ_ONCE(txs[i].commits));
}
