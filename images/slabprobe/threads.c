// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The critical threads: each stands for a thread that writes data back and must
 * not stop. It counts what it gets and how long that takes, by itself, so that
 * the slab file can be checked against somebody who was there.
 */
#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "slabprobe.h"

/* Frees are timed with so many objects kept besides, ten times more, and so on. */
#define KEPT_FIRST	10
#define KEPT_BATCHES	5

struct critical {
	struct task_struct *task;
	unsigned int id;
	unsigned int taken;
	void **objs;
	enum probe_state reached;
	u64 rounds, allocs, frees, emergency, failures, corrupt;
	u64 gap_max_ns, gap_total_max_ns;
	u64 alloc_since_ns;	/* 0: no allocation under way */
	u64 last_ns;		/* 0: no gap is open */
	u64 latency[PROBE_BUCKETS];
	struct probe_service service;
};

static struct probe_config config = {
	.threads = 2,
	.objects = 32,
	.size = 65536,
	.pause_us = 5000,
	.reap_rounds = 1,
};

static DECLARE_WAIT_QUEUE_HEAD(control_wq);
static enum probe_state wanted = PROBE_STOPPED;
static struct critical *criticals;
static unsigned int nr_criticals;
static struct probe_cache *cache;
static atomic_t live_slab, live_emergency, emergency_max;
static atomic64_t emergency_total;

/*
 * Emergency objects come from the page allocator, slab objects from vmalloc;
 * SPL itself tells them apart in this way when they are freed.
 */
static bool is_emergency(const void *obj)
{
	return !is_vmalloc_addr(obj);
}

static void raise_max(atomic_t *max, int value)
{
	int seen = atomic_read(max);

	while (value > seen && !atomic_try_cmpxchg(max, &seen, value))
		;
}

static u64 pattern(const struct critical *c, const void *word)
{
	return (unsigned long)word ^ ((u64)c->id << 56) ^ (c->rounds << 32);
}

/* One word at the start of every page and the last word of the object. */
static void touch(const struct critical *c, void *obj)
{
	void *last = obj + round_down(config.size, 8) - 8;
	void *p;

	for (p = obj; p < last; p += PAGE_SIZE)
		*(u64 *)p = pattern(c, p);
	*(u64 *)last = pattern(c, last);
}

static bool intact(const struct critical *c, void *obj)
{
	void *last = obj + round_down(config.size, 8) - 8;
	void *p;

	for (p = obj; p < last; p += PAGE_SIZE)
		if (*(u64 *)p != pattern(c, p))
			return false;
	return *(u64 *)last == pattern(c, last);
}

static void note_latency(struct critical *c, u64 from_ns, u64 to_ns)
{
	c->latency[probe_bucket(from_ns, to_ns)]++;
	if (c->last_ns) {
		u64 gap = to_ns - c->last_ns;

		if (gap > READ_ONCE(c->gap_max_ns))
			WRITE_ONCE(c->gap_max_ns, gap);
		if (gap > c->gap_total_max_ns)
			WRITE_ONCE(c->gap_total_max_ns, gap);
	}
	WRITE_ONCE(c->last_ns, to_ns);
}

static void count_object(struct critical *c, const void *obj)
{
	if (is_emergency(obj)) {
		WRITE_ONCE(c->emergency, c->emergency + 1);
		atomic64_inc(&emergency_total);
		raise_max(&emergency_max, atomic_inc_return(&live_emergency));
	} else {
		atomic_inc(&live_slab);
		if (config.commits)
			probe_push_note(obj);
	}
}

static void take_one(struct critical *c)
{
	struct probe_call call;
	u64 from, to;
	bool failing;
	void *obj;

	probe_service_begin(&call, cache);
	from = ktime_get_ns();
	WRITE_ONCE(c->alloc_since_ns, from);
	failing = probe_fail_begin(PROBE_FAIL_EMERGENCY);
	obj = probe_cache_alloc(cache);
	probe_fail_end(failing);
	WRITE_ONCE(c->alloc_since_ns, 0);
	if (!obj) {
		WRITE_ONCE(c->failures, c->failures + 1);
		return;
	}
	to = ktime_get_ns();
	note_latency(c, from, to);
	probe_service_end(&c->service, &call, cache, from, to, is_emergency(obj));
	count_object(c, obj);
	touch(c, obj);
	c->objs[c->taken++] = obj;
	WRITE_ONCE(c->allocs, c->allocs + 1);
}

/* The last one, which is SPL's from now on. */
static void *let_go(struct critical *c)
{
	void *obj = c->objs[--c->taken];

	if (!intact(c, obj))
		WRITE_ONCE(c->corrupt, c->corrupt + 1);
	atomic_dec(is_emergency(obj) ? &live_emergency : &live_slab);
	WRITE_ONCE(c->frees, c->frees + 1);
	return obj;
}

static void give_all_back(struct critical *c)
{
	unsigned int slab = 0;

	while (c->taken) {
		void *obj = let_go(c);

		slab += !is_emergency(obj);
		probe_cache_free(cache, obj);
		cond_resched();
	}
	probe_service_given(&c->service, cache, slab);
}

static void idle(struct critical *c, enum probe_state state)
{
	WRITE_ONCE(c->last_ns, 0);
	WRITE_ONCE(c->reached, state);
	wait_event_idle(control_wq, READ_ONCE(wanted) != state || kthread_should_stop());
	WRITE_ONCE(c->reached, PROBE_RUNNING);
}

static void take_more(struct critical *c, unsigned int count)
{
	unsigned int i;

	for (i = c->taken; i < count; i++) {
		take_one(c);
		cond_resched();
	}
}

static void take_all(struct critical *c)
{
	take_more(c, config.objects);
}

/* Any of those held: a list would have the last ones at its head. */
static void give_some_back(struct critical *c)
{
	unsigned int i, kept, taken = c->taken;
	bool all_emergency = !atomic_read(&live_slab);
	u64 from;

	for (i = 0; i < config.objects && c->taken; i++) {
		unsigned int any = get_random_u32() % c->taken;

		swap(c->objs[c->taken - 1], c->objs[any]);
		let_go(c);
	}
	kept = c->taken;
	from = ktime_get_ns();
	for (i = kept; i < taken; i++)
		probe_cache_free(cache, c->objs[i]);
	if (all_emergency)
		probe_kept_note(kept, taken - kept, ktime_get_ns() - from);
}

/* More and more objects; the thread is the only one. At the end it holds the most. */
static void climb(struct critical *c)
{
	unsigned int kept, i;

	for (kept = KEPT_FIRST; kept <= config.keep; kept *= 10)
		for (i = 0; i < KEPT_BATCHES; i++) {
			take_more(c, kept + config.objects);
			give_some_back(c);
		}
	take_more(c, config.keep + config.objects);
}

/*
 * What comes before a commit. Stacks show it as long as it lasts, and where the
 * caller itself grows the cache, the page tables are its own.
 */
static noinline void slabprobe_transaction(struct critical *c)
{
	struct probe_grower *grower = probe_grow_begin();

	take_all(c);
	probe_grow_end(grower);
}

static void one_round(struct critical *c)
{
	u64 before = c->emergency;

	if (config.commits)
		slabprobe_transaction(c);
	else if (config.keep && probe_holds())
		climb(c);
	else
		take_all(c);
	if (READ_ONCE(wanted) == PROBE_PARKED)
		idle(c, PROBE_PARKED);
	if (config.commits)
		probe_commit(c->emergency != before);
	give_all_back(c);
	WRITE_ONCE(c->rounds, c->rounds + 1);
	if (config.reap_rounds && c->rounds % config.reap_rounds == 0) {
		probe_cache_reap(cache);
		probe_service_reaped(&c->service);
	}
	if (config.commits)
		probe_push_on(probe_cache_slab_size(cache));
	if (config.pause_us)
		usleep_range(config.pause_us, config.pause_us + config.pause_us / 4 + 1);
}

static int critical_thread(void *data)
{
	struct critical *c = data;

	if (config.noio)
		(void)memalloc_noio_save();
	/* It may be wanted before it runs for the first time, and not go idle first. */
	WRITE_ONCE(c->reached, PROBE_RUNNING);
	while (!kthread_should_stop()) {
		if (READ_ONCE(wanted) == PROBE_STOPPED)
			idle(c, PROBE_STOPPED);
		else
			one_round(c);
	}
	return 0;
}

static unsigned int count_reached(enum probe_state state)
{
	unsigned int i, n = 0;

	for (i = 0; i < nr_criticals; i++)
		n += READ_ONCE(criticals[i].reached) == state;
	return n;
}

static bool all_stopped(void)
{
	return count_reached(PROBE_STOPPED) == nr_criticals;
}

/* A thread that SPL never lets go is waited for: its objects are SPL's. */
static void tear_down(void)
{
	unsigned int i;

	WRITE_ONCE(wanted, PROBE_STOPPED);
	wake_up_all(&control_wq);
	for (i = 0; i < nr_criticals; i++) {
		kthread_stop(criticals[i].task);
		kvfree(criticals[i].objs);
	}
	nr_criticals = 0;
	kvfree(criticals);
	criticals = NULL;
	if (cache)
		probe_cache_destroy(cache);
	cache = NULL;
}

/*
 * Each thread stays on one CPU: SPL's magazines are per CPU and reaping empties
 * only the local one, so a thread that moved would find objects in a magazine
 * and not ask for the growth that is to be held.
 */
static int spawn(struct critical *c, unsigned int id)
{
	unsigned int cpu = cpumask_first(cpu_online_mask), i;

	for (i = 0; i < id % num_online_cpus(); i++)
		cpu = cpumask_next(cpu, cpu_online_mask);
	c->id = id;
	c->service.alone = id < num_online_cpus() && id + num_online_cpus() >= config.threads;
	c->objs = kvcalloc(config.objects + config.keep, sizeof(*c->objs), GFP_KERNEL);
	if (!c->objs)
		return -ENOMEM;
	if (config.commits)
		c->task = kthread_create(critical_thread, c, PROBE_NAME "/tx");
	else
		c->task = kthread_create(critical_thread, c, PROBE_NAME "/%u", id);
	if (IS_ERR(c->task)) {
		kvfree(c->objs);
		return PTR_ERR(c->task);
	}
	kthread_bind(c->task, cpu);
	return 0;
}

static int build_up(void)
{
	int err = -ENOMEM;

	cache = probe_cache_create(config.size);
	criticals = kvcalloc(config.threads, sizeof(*criticals), GFP_KERNEL);
	if (!cache || !criticals)
		goto fail;
	probe_growth_of(probe_cache_slab_size(cache));
	for (; nr_criticals < config.threads; nr_criticals++) {
		err = spawn(&criticals[nr_criticals], nr_criticals);
		if (err)
			goto fail;
		wake_up_process(criticals[nr_criticals].task);
	}
	return 0;
fail:
	tear_down();
	return err;
}

void probe_threads_config(struct probe_config *out)
{
	*out = config;
}

int probe_threads_set(const struct probe_config *wish)
{
	if (!all_stopped() || wanted != PROBE_STOPPED)
		return -EBUSY;
	if (wish->threads < 1 || wish->threads > PROBE_MAX_THREADS ||
	    wish->objects < 1 || wish->objects > PROBE_MAX_OBJECTS ||
	    wish->size < 64 || wish->size > SZ_8M || wish->pause_us > USEC_PER_SEC)
		return -EINVAL;
	/* Of several threads the others would commit what one waits for. */
	if (wish->commits > PROBE_MAX_COMMITS || (wish->commits && wish->threads != 1))
		return -EINVAL;
	if (wish->noio > 1)
		return -EINVAL;
	/* Another one's objects would be looked up among those that are kept. */
	if (wish->keep > PROBE_MAX_OBJECTS || (wish->keep && (wish->threads != 1 || wish->commits)))
		return -EINVAL;
	tear_down();
	probe_kept_reset();
	config = *wish;
	return 0;
}

int probe_threads_start(void)
{
	int err = criticals ? 0 : build_up();

	return err ? err : probe_threads_want(PROBE_RUNNING);
}

int probe_threads_want(enum probe_state state)
{
	if (!criticals)
		return -EBUSY;
	WRITE_ONCE(wanted, state);
	wake_up_all(&control_wq);
	return 0;
}

/* Whether the work of SPL's worker is a growth of the cache under test. */
bool probe_threads_own(const void *work)
{
	struct probe_cache *own = READ_ONCE(cache);

	return own && probe_cache_grows(own, work);
}

/* The longest gap starts anew; a gap that is open goes on from where it began. */
void probe_threads_mark(void)
{
	unsigned int i;

	for (i = 0; i < nr_criticals; i++)
		WRITE_ONCE(criticals[i].gap_max_ns, 0);
}

static void show_thread(struct seq_file *m, const struct critical *c, u64 now)
{
	u64 last = READ_ONCE(c->last_ns);
	u64 since = last ? last : READ_ONCE(c->alloc_since_ns);
	u64 open = since && now > since ? now - since : 0;

	seq_printf(m, "thread %u pid=%d rounds=%llu allocs=%llu frees=%llu emergency=%llu failures=%llu corrupt=%llu",
		   c->id, task_pid_nr(c->task), READ_ONCE(c->rounds),
		   READ_ONCE(c->allocs), READ_ONCE(c->frees),
		   READ_ONCE(c->emergency), READ_ONCE(c->failures),
		   READ_ONCE(c->corrupt));
	seq_printf(m, " gap_max_ns=%llu gap_total_max_ns=%llu alloc_since_ns=%llu last_ns=%llu\n",
		   max(READ_ONCE(c->gap_max_ns), open),
		   max(READ_ONCE(c->gap_total_max_ns), open),
		   READ_ONCE(c->alloc_since_ns), last);
}

static void show_latency(struct seq_file *m)
{
	unsigned int bucket, i;

	for (bucket = 0; bucket < PROBE_BUCKETS; bucket++) {
		u64 sum = 0;

		for (i = 0; i < nr_criticals; i++)
			sum += READ_ONCE(criticals[i].latency[bucket]);
		if (sum)
			seq_printf(m, "latency %u %llu\n", bucket, sum);
	}
}

static void show_service(struct seq_file *m)
{
	static struct probe_service sum;
	unsigned int i;

	memset(&sum, 0, sizeof(sum));
	for (i = 0; i < nr_criticals; i++)
		probe_service_add(&sum, &criticals[i].service);
	probe_service_show(m, &sum, cache);
}

void probe_threads_show(struct seq_file *m)
{
	static const char * const names[] = { "stopped", "running", "parked" };
	u64 now = ktime_get_ns();
	unsigned int i;

	seq_printf(m, "config threads=%u objects=%u size=%u pause_us=%u reap_rounds=%u commits=%u noio=%u keep=%u\n",
		   config.threads, config.objects, config.size, config.pause_us,
		   config.reap_rounds, config.commits, config.noio, config.keep);
	seq_printf(m, "run state=%s parked=%u stopped=%u\n", names[wanted],
		   count_reached(PROBE_PARKED), count_reached(PROBE_STOPPED));
	seq_printf(m, "live slab=%d emergency=%d emergency_max=%d emergency_total=%lld\n",
		   atomic_read(&live_slab), atomic_read(&live_emergency),
		   atomic_read(&emergency_max), atomic64_read(&emergency_total));
	for (i = 0; i < nr_criticals; i++)
		show_thread(m, &criticals[i], now);
	show_latency(m);
	show_service(m);
}

void probe_threads_exit(void)
{
	tear_down();
}
