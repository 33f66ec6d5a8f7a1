// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What transactions of the storm do: a table of the ways in which SPL allocates.
 * SPL's headers redefine common names, so the rest of the storm does not see them.
 */
#include <sys/kmem.h>
#include <sys/kmem_cache.h>
#include <sys/taskq.h>
#include <sys/thread.h>
#include <sys/timer.h>
#include <sys/vmem.h>

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/delay.h>

#include "slabprobe.h"
#include "sites.h"

#define LARGE		65536
#define SMALL		1024
#define IN_KERNEL_SLAB	256
#define OBJECTS		12

static spl_kmem_cache_t *large, *small_, *backed;
static taskq_t *runners, *servers;
static u64 failed;
static DEFINE_SPINLOCK(held_lock);

static void count_failure(bool is_failure)
{
	if (is_failure)
		WRITE_ONCE(failed, READ_ONCE(failed) + 1);
}

static void take_and_give(spl_kmem_cache_t *cache, int flags, size_t size)
{
	void *taken[OBJECTS];
	unsigned int i;

	for (i = 0; i < OBJECTS; i++) {
		taken[i] = spl_kmem_cache_alloc(cache, flags);
		if (taken[i])
			memset(taken[i], i, min_t(size_t, size, 64));
		count_failure(!taken[i] && !(flags & KM_NOSLEEP));
	}
	for (i = 0; i < OBJECTS; i++)
		if (taken[i])
			spl_kmem_cache_free(cache, taken[i]);
}

static void op_large_sleep(unsigned int round)
{
	take_and_give(large, KM_SLEEP, LARGE);
	spl_kmem_cache_reap_now(large);
}

static void op_large_pushpage(unsigned int round)
{
	take_and_give(large, KM_PUSHPAGE, LARGE);
	spl_kmem_cache_reap_now(large);
}

static void op_large_nosleep(unsigned int round)
{
	take_and_give(large, KM_NOSLEEP, LARGE);
}

static void op_small(unsigned int round)
{
	static const int flags[] = { KM_SLEEP, KM_PUSHPAGE, KM_NOSLEEP };

	take_and_give(small_, flags[round % 3], SMALL);
	spl_kmem_cache_reap_now(small_);
}

static void op_backed(unsigned int round)
{
	static const int flags[] = { KM_SLEEP, KM_PUSHPAGE, KM_NOSLEEP };

	take_and_give(backed, flags[round % 3], IN_KERNEL_SLAB);
}

/* Of larger ones SPL complains (spl_kmem_alloc_warn). */
static void op_kmem(unsigned int round)
{
	static const size_t sizes[] = { 64, 4000, 20000, 60000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		int flags = i % 2 ? KM_PUSHPAGE : KM_SLEEP;
		void *buf = round % 2 ? kmem_alloc(sizes[i], flags) : kmem_zalloc(sizes[i], flags);

		count_failure(!buf);
		if (buf)
			kmem_free(buf, sizes[i]);
		buf = kmem_alloc(sizes[i], KM_NOSLEEP);
		if (buf)
			kmem_free(buf, sizes[i]);
	}
}

static char *print_to_memory(const char *form, ...)
{
	char *text;
	va_list args;

	va_start(args, form);
	text = kmem_vasprintf(form, args);
	va_end(args);
	return text;
}

static void op_strings(unsigned int round)
{
	char *text = round % 2 ? kmem_asprintf("round %u", round) : print_to_memory("round %u", round), *copy;

	count_failure(!text);
	if (!text)
		return;
	copy = kmem_strdup(text);
	count_failure(!copy);
	if (copy)
		kmem_strfree(copy);
	kmem_strfree(text);
}

/* SPL takes the largest one from vmalloc (spl_kmem_alloc_max); KM_VMEM lets kmem_alloc() do so too. */
static void op_vmem(unsigned int round)
{
	static const size_t sizes[] = { 3000, 100000, 1600000 };
	unsigned int i;
	void *large_one;

	large_one = round % 2 ? kmem_zalloc(1600000, KM_SLEEP | KM_VMEM) :
				kmem_alloc(1600000, KM_SLEEP | KM_VMEM);
	count_failure(!large_one);
	if (large_one)
		kmem_free(large_one, 1600000);

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		void *buf = round % 2 ? vmem_alloc(sizes[i], KM_SLEEP) : vmem_zalloc(sizes[i], KM_PUSHPAGE);

		count_failure(!buf);
		if (buf)
			vmem_free(buf, sizes[i]);
	}
}

static void nothing(void *unused)
{
}

/* The third argument, if there is none, is in a register that nobody looks into. */
static void cancel(taskqid_t id)
{
	int (*cancel_id)(taskq_t *, taskqid_t, int) = (void *)&taskq_cancel_id;

	cancel_id(servers, id, 0);
}

static void op_taskq(unsigned int round)
{
	taskqid_t delayed;
	unsigned int i;

	for (i = 0; i < 4; i++)
		count_failure(!taskq_dispatch(servers, nothing, NULL, i % 2 ? TQ_PUSHPAGE : TQ_SLEEP));
	(void) taskq_dispatch(servers, nothing, NULL, TQ_NOSLEEP);
	delayed = taskq_dispatch_delay(servers, nothing, NULL, TQ_SLEEP, ddi_get_lbolt() + 10 * HZ);
	count_failure(!delayed);
	if (delayed)
		cancel(delayed);
	taskq_wait_outstanding(servers, 0);
}

/* What must not sleep, where it must not. */
static void op_atomic(unsigned int round)
{
	void *buf, *object;

	spin_lock(&held_lock);
	buf = kmem_alloc(200, KM_NOSLEEP);
	object = spl_kmem_cache_alloc(backed, KM_NOSLEEP);
	spin_unlock(&held_lock);
	if (buf)
		kmem_free(buf, 200);
	if (object)
		spl_kmem_cache_free(backed, object);
}

static void op_create(unsigned int round)
{
	taskq_t *queue = taskq_create(PROBE_NAME "_c", 1, minclsyspri, 1, 8, TASKQ_PREPOPULATE);

	count_failure(!queue);
	if (queue)
		taskq_destroy(queue);
}

static DECLARE_COMPLETION(thread_done);

static void short_thread(void *unused)
{
	complete(&thread_done);
	thread_exit();
}

static void op_thread(unsigned int round)
{
	kthread_t *thread = thread_create(NULL, 0, short_thread, NULL, 0, NULL, TS_RUN, minclsyspri);

	count_failure(!thread);
	if (thread)
		wait_for_completion(&thread_done);
}

/* Threads of a queue are made when there is work, and end with it. */
static void op_dynamic(unsigned int round)
{
	taskq_t *queue = taskq_create(PROBE_NAME "_d", 4, minclsyspri, 1, 8, TASKQ_DYNAMIC);
	unsigned int i;

	count_failure(!queue);
	if (!queue)
		return;
	for (i = 0; i < 6; i++)
		count_failure(!taskq_dispatch(queue, nothing, NULL, TQ_SLEEP));
	taskq_destroy(queue);
}

/* A task is cancelled about when its timer expires: before, meanwhile, or when it has run. */
static void op_expiry(unsigned int round)
{
	taskqid_t delayed = taskq_dispatch_delay(servers, nothing, NULL, TQ_SLEEP, ddi_get_lbolt() + 1);

	count_failure(!delayed);
	usleep_range(round % 17 * 500, round % 17 * 500 + 50);
	if (delayed)
		cancel(delayed);
}

/* Bits of the configuration, in this order; PROBE_OPS_THREADED are those that make threads, or sleep for long. */
static const struct {
	void (*run)(unsigned int round);
} ops[] = {
	{ op_large_sleep },
	{ op_large_pushpage },
	{ op_large_nosleep },
	{ op_small },
	{ op_backed },
	{ op_kmem },
	{ op_strings },
	{ op_vmem },
	{ op_taskq },
	{ op_create },
	{ op_thread },
	{ op_atomic },
	{ op_dynamic },
	{ op_expiry },
};

unsigned int probe_ops_all(void)
{
	return (1U << ARRAY_SIZE(ops)) - 1;
}

u64 probe_ops_failed(void)
{
	return READ_ONCE(failed);
}

void probe_ops_run(unsigned int wanted, unsigned int round)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(ops); i++)
		if (wanted & (1U << i)) {
			ops[i].run(round);
			cond_resched();
		}
}

/* By SPL's own function, for as long as the thread lives. */
void probe_ops_mark(void)
{
	(void) spl_fstrans_mark();
}

int probe_ops_dispatch(void (*task)(void *), void *arg)
{
	return taskq_dispatch(runners, task, arg, TQ_SLEEP) ? 0 : -ENOMEM;
}

static spl_kmem_cache_t *make_cache(char *name, size_t size, int flags)
{
	return spl_kmem_cache_create(name, size, 0, NULL, NULL, NULL, NULL, NULL, flags);
}

int probe_ops_init(unsigned int wanted)
{
	static char large_name[] = PROBE_NAME "_large", small_name[] = PROBE_NAME "_small",
		    backed_name[] = PROBE_NAME "_slab";

	if (large)
		return 0;
	large = make_cache(large_name, LARGE, KMC_KVMEM);
	small_ = make_cache(small_name, SMALL, KMC_KVMEM);
	backed = make_cache(backed_name, IN_KERNEL_SLAB, KMC_SLAB);
	runners = taskq_create(PROBE_NAME "_tq", 1, minclsyspri, 1, 8, TASKQ_PREPOPULATE);
	servers = taskq_create(PROBE_NAME "_q", 2, minclsyspri, 1, 8, TASKQ_PREPOPULATE | TASKQ_DYNAMIC);
	if (large && small_ && backed && runners && servers)
		return 0;
	probe_ops_exit();
	return -ENOMEM;
}

void probe_ops_exit(void)
{
	if (runners)
		taskq_destroy(runners);
	if (servers)
		taskq_destroy(servers);
	if (large)
		spl_kmem_cache_destroy(large);
	if (small_)
		spl_kmem_cache_destroy(small_);
	if (backed)
		spl_kmem_cache_destroy(backed);
	large = small_ = backed = NULL;
	runners = servers = NULL;
}
