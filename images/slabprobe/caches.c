// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Caches of several kinds at once, as users of SPL have them: three threads on
 * their own CPUs take objects in every way there is, and give back those that
 * another one took. Each object is looked at: where it lies, whether it was
 * constructed, and whether it still holds what was written to it.
 *
 * At rest the number of objects in hand is known for each cache.
 */
#include <sys/kmem.h>
#include <sys/kmem_cache.h>
#include <sys/taskq.h>
#include <sys/thread.h>
#include <sys/vmem.h>

#include <linux/atomic.h>
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/uaccess.h>

#include "slabprobe.h"
#include "work.h"

#define NR_WORKERS	3
#define NR_BOX		12	/* objects in hand of each kind */
#define NR_BATCH	4
#define NR_MORE		160	/* of a kind, that nobody may wait for */
#define NR_EMERGENCY	8	/* of these, emergency objects that are enough */
#define HUGE_SIZE	SZ_16M
#define SLAB_LIMIT	16384	/* up to this SPL takes the kernel's own caches by itself */
#define BUILT		0x6275696c74ULL
#define TORN_DOWN	0x746f726eULL

static struct kind {
	char name[32];
	size_t size, align;
	int flags;
	bool builds;		/* has constructor and destructor */
	spl_kmem_cache_t *cache;
	spinlock_t lock;	/* of the box */
	void *box[NR_BOX];
	atomic_t held, emergency;
	atomic_t most_emergency;	/* that there were at once */
	atomic64_t allocs, frees, built, torn_down;
} kinds[] = {
	{ .name = PROBE_NAME "_k0", .size = 65536, .flags = KMC_KVMEM, .builds = true },
	{ .name = PROBE_NAME "_k1", .size = 1500, .flags = KMC_KVMEM, .builds = true },
	{ .name = PROBE_NAME "_k2", .size = 20000, .align = 4096 },
	{ .name = PROBE_NAME "_k3", .size = 3000, .align = 1024, .flags = KMC_KVMEM },
	{ .name = PROBE_NAME "_k4", .size = 304, .align = 256, .flags = KMC_SLAB, .builds = true },
	{ .name = PROBE_NAME "_k5", .size = SLAB_LIMIT },
	{ .name = PROBE_NAME "_k6", .size = 100, .builds = true },
};

#define NR_KINDS	ARRAY_SIZE(kinds)

enum {
	ALIGNED, WHOLE, CONSTRUCTED, NOT_NULL, NO_SLEEP, COMPOUND, OWN_PAGES, ZEROED, TEXT, RECLAIMED, SCALED, FOR_CPUS,
	SENT, OWN_MAGAZINE, INTERRUPTS, NR_PROMISES,
};

static struct probe_promise promises[NR_PROMISES] = {
	[ALIGNED] = { "aligned" },
	[WHOLE] = { "whole" },			/* what was written to it */
	[CONSTRUCTED] = { "constructed" },
	[NOT_NULL] = { "not-null" },		/* who may sleep gets one */
	[NO_SLEEP] = { "no-sleep" },		/* who may not sleep does not */
	[COMPOUND] = { "compound" },		/* the pages of an emergency object: networks take references */
	[OWN_PAGES] = { "own-pages" },		/* of an emergency object: none of kmalloc()'s slabs */
	[ZEROED] = { "zeroed" },
	[TEXT] = { "text" },
	[RECLAIMED] = { "reclaimed" },		/* reclaim is told of the pages of a slab that is freed */
	[FOR_CPUS] = { "for-cpus" },		/* of such a taskq: a thread at least for each CPU */
	[SENT] = { "sent" },			/* what the network has of an object stays when that is given back */
	[SCALED] = { "scaled" },		/* each task ran of a taskq whose threads come and go with CPUs */
	[OWN_MAGAZINE] = { "own-magazine" },	/* of another CPU nobody touches it */
	[INTERRUPTS] = { "irqs-stay-off" },	/* where they were off before */
};

static struct worker {
	struct probe_hand hand;
	u64 rounds;
} workers[NR_WORKERS];

static enum probe_work wish = PROBE_WORK_NONE;
static struct kind * const more_of[] = { &kinds[0], &kinds[3] };
static void *more[ARRAY_SIZE(more_of)][NR_MORE];
static taskq_t *pct;	/* with as many threads as there are CPUs */
static u64 pct_given;
static atomic64_t pct_ran;
static cpumask_t made_with;	/* CPUs that were there when the caches were made */
static cpumask_t came;		/* others, on which the caches were used later */
static DEFINE_SPINLOCK(caches_lock);	/* of the pointers to caches that are shown */
static DEFINE_SPINLOCK(atomic_lock);

static int construct(void *obj, void *priv, int flags)
{
	struct kind *kind = priv;

	*(u64 *)obj = BUILT ^ (unsigned long)obj;
	atomic64_inc(&kind->built);
	return 0;
}

static void tear_down(void *obj, void *priv)
{
	struct kind *kind = priv;

	*(u64 *)obj = TORN_DOWN;
	atomic64_inc(&kind->torn_down);
}

/* The second word says whose it is; the rest depends on it and on the place. */
static u64 word_at(const void *obj, const void *at)
{
	return (unsigned long)at ^ (*(u64 *)(obj + 8) << 16);
}

static void *next_word(const struct kind *kind, void *obj, void *at)
{
	void *last = obj + round_down(kind->size, 8) - 8;

	if (at == last)
		return NULL;
	return at + PAGE_SIZE < last ? at + PAGE_SIZE : last;
}

static void stamp(const struct kind *kind, void *obj)
{
	static atomic64_t serial = ATOMIC64_INIT(0);
	void *at;

	*(u64 *)(obj + 8) = atomic64_inc_return(&serial);
	for (at = obj + 16; at; at = next_word(kind, obj, at))
		*(u64 *)at = word_at(obj, at);
}

static bool is_whole(const struct kind *kind, void *obj)
{
	void *at;

	for (at = obj + 16; at; at = next_word(kind, obj, at))
		if (*(u64 *)at != word_at(obj, at))
			return false;
	return true;
}

static bool is_kvmem(const struct kind *kind)
{
	return kind->cache->skc_flags & KMC_KVMEM;
}

static bool is_emergency(const struct kind *kind, const void *obj)
{
	return is_kvmem(kind) && !is_vmalloc_addr(obj);
}

static void raise(atomic_t *most, int now)
{
	int before = atomic_read(most);

	while (before < now && !atomic_try_cmpxchg(most, &before, now))
		;
}

static void look_at(struct kind *kind, void *obj)
{
	size_t align = kind->align ? kind->align : SPL_KMEM_CACHE_ALIGN;

	probe_keep(&promises[ALIGNED], kind->name, (unsigned long)obj & (align - 1), 0);
	if (kind->builds)
		probe_keep(&promises[CONSTRUCTED], kind->name, *(u64 *)obj == (BUILT ^ (unsigned long)obj), 1);
	/* Users of SPL copy what they hold to user space, which the kernel lets them of such objects alone. */
	if (!is_kvmem(kind))
		check_object_size(obj, kind->size, true);
	if (!is_emergency(kind, obj))
		return;
	raise(&kind->most_emergency, atomic_inc_return(&kind->emergency));
	if (kind->size > PAGE_SIZE)
		probe_keep(&promises[COMPOUND], kind->name, !!PageCompound(virt_to_page(obj)), 1);
	probe_keep(&promises[OWN_PAGES], kind->name, !!PageSlab(virt_to_head_page(obj)), 0);
}

static void *take(struct kind *kind, int flags)
{
	unsigned long sleeps = current->nvcsw;
	void *obj = spl_kmem_cache_alloc(kind->cache, flags);

	if (flags & KM_NOSLEEP)
		probe_keep(&promises[NO_SLEEP], kind->name, current->nvcsw - sleeps, 0);
	else
		probe_keep(&promises[NOT_NULL], kind->name, obj != NULL, 1);
	if (!obj)
		return NULL;
	atomic_inc(&kind->held);
	atomic64_inc(&kind->allocs);
	look_at(kind, obj);
	stamp(kind, obj);
	return obj;
}

/* Of an emergency object of several pages that the network may have; 0: it may not. Its last word is never 0. */
static u64 last_word(const struct kind *kind, const void *obj)
{
	const void *last = obj + round_down(kind->size, 8) - 8;

	return kind->size > PAGE_SIZE && PageCompound(virt_to_page(obj)) ? *(const u64 *)last : 0;
}

/* Whether the cache may have one on this CPU without giving slabs back, for which it may sleep. */
static bool has_room(const struct kind *kind, const void *obj)
{
	const spl_kmem_magazine_t *magazine;

	if (!is_kvmem(kind))
		return true;
	magazine = kind->cache->skc_mag[raw_smp_processor_id()];
	return !is_emergency(kind, obj) && magazine->skm_avail < magazine->skm_size;
}

/* As those do that are called with interrupts off; if that cannot be, as all others. */
static void give_back(struct kind *kind, void *obj)
{
	unsigned long flags;
	bool given;

	local_irq_save(flags);
	given = has_room(kind, obj);
	if (given) {
		spl_kmem_cache_free(kind->cache, obj);
		probe_keep(&promises[INTERRUPTS], kind->name, !!irqs_disabled(), 1);
	}
	local_irq_restore(flags);
	if (!given)
		spl_kmem_cache_free(kind->cache, obj);
}

static void give(struct kind *kind, void *obj)
{
	bool sent;
	u64 word;

	if (!obj)
		return;
	probe_keep(&promises[WHOLE], kind->name, is_whole(kind, obj), 1);
	if (is_emergency(kind, obj))
		atomic_dec(&kind->emergency);
	word = is_emergency(kind, obj) ? last_word(kind, obj) : 0;
	sent = word && probe_send(obj + round_down(kind->size, 8) - 8);
	atomic64_inc(&kind->frees);
	atomic_dec(&kind->held);
	give_back(kind, obj);
	if (sent)
		probe_keep(&promises[SENT], kind->name, probe_receive() == word, 1);
}

/* Where one of another thread may lie, which this one then gives back. */
static void *put_into_box(struct kind *kind, unsigned int at, void *obj)
{
	void *before;

	spin_lock(&kind->lock);
	before = kind->box[at % NR_BOX];
	kind->box[at % NR_BOX] = obj;
	spin_unlock(&kind->lock);
	return before;
}

static void turn_over(struct worker *w, struct kind *kind)
{
	static const int flags[] = { KM_SLEEP, KM_PUSHPAGE, KM_NOSLEEP };
	void *taken[NR_BATCH];
	unsigned int i;

	for (i = 0; i < NR_BATCH; i++)
		taken[i] = take(kind, flags[(w->rounds + i) % ARRAY_SIZE(flags)]);
	for (i = 0; i < NR_BATCH; i++)
		give(kind, put_into_box(kind, w->rounds * NR_BATCH + w->hand.id + i, taken[i]));
}

/* The kernel's own caches are asked where nobody may sleep at all; SPL's own sleep there in 2.0. */
static void take_atomically(struct kind *kind)
{
	void *obj;

	spin_lock(&atomic_lock);
	obj = take(kind, KM_NOSLEEP);
	spin_unlock(&atomic_lock);
	give(kind, obj);
}

static unsigned int dirt(const void *buf, size_t size)
{
	return memchr_inv(buf, 0, size) != NULL;
}

static void use_kmem(struct worker *w)
{
	static const size_t sizes[] = { 40, 3000, 50000 };
	unsigned int i;
	char *text;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		void *buf = kmem_alloc(sizes[i], KM_SLEEP), *zeroed = kmem_zalloc(sizes[i], KM_SLEEP);

		probe_keep(&promises[NOT_NULL], "kmem_alloc", buf && zeroed, 1);
		if (buf)
			memset(buf, 0x5a, sizes[i]);
		if (zeroed)
			probe_keep(&promises[ZEROED], "kmem_zalloc", dirt(zeroed, sizes[i]), 0);
		if (zeroed)
			kmem_free(zeroed, sizes[i]);
		if (buf)
			kmem_free(buf, sizes[i]);
		buf = vmem_zalloc(sizes[i] * 4, KM_SLEEP);
		probe_keep(&promises[NOT_NULL], "vmem_zalloc", buf != NULL, 1);
		if (!buf)
			continue;
		probe_keep(&promises[ZEROED], "vmem_zalloc", dirt(buf, sizes[i] * 4), 0);
		memset(buf, 0x5a, sizes[i] * 4);
		vmem_free(buf, sizes[i] * 4);
	}
	text = kmem_asprintf("%s/%u of %s", "worker", w->hand.id, PROBE_NAME);
	probe_keep(&promises[TEXT], "kmem_asprintf", text && !strncmp(text, "worker/", 7) &&
		   text[7] == '0' + w->hand.id && !strcmp(text + 8, " of " PROBE_NAME), 1);
	if (text)
		kmem_strfree(text);
}

/*
 * A growth may still be under way of which nobody waits for the end any more. SPL waits
 * for it on a queue that nobody wakes (spl_kmem_cache_destroy() up to 2.4 and on master
 * in 2026), so whoever destroys a cache then waits for ever.
 */
static void settle(spl_kmem_cache_t *cache)
{
	while (atomic_read(&cache->skc_ref) || test_bit(KMC_BIT_GROWING, &cache->skc_flags))
		schedule_timeout_uninterruptible(1);
}

/* SPL takes objects of up to 32 MiB; none is taken here. */
static void make_huge(void)
{
	static char name[] = PROBE_NAME "_kh";
	spl_kmem_cache_t *cache = spl_kmem_cache_create(name, HUGE_SIZE, 0, NULL, NULL, NULL, NULL, NULL, 0);

	probe_keep(&promises[NOT_NULL], "kmem_cache_create", cache != NULL, 1);
	if (cache)
		spl_kmem_cache_destroy(cache);
}

/* While the other caches are in use. */
static void make_and_destroy(struct worker *w)
{
	static char name[] = PROBE_NAME "_kt";
	struct kind kind = { .name = PROBE_NAME "_kt", .size = 5000, .flags = w->rounds & 8 ? KMC_SLAB : KMC_KVMEM,
			     .builds = true };
	void *taken[NR_BATCH];
	unsigned int i;

	make_huge();
	kind.cache = spl_kmem_cache_create(name, kind.size, 0, construct, tear_down, NULL, &kind, NULL, kind.flags);
	probe_keep(&promises[NOT_NULL], "kmem_cache_create", kind.cache != NULL, 1);
	if (!kind.cache)
		return;
	for (i = 0; i < NR_BATCH; i++)
		taken[i] = take(&kind, KM_SLEEP);
	for (i = 0; i < NR_BATCH; i++)
		give(&kind, taken[i]);
	settle(kind.cache);
	spl_kmem_cache_destroy(kind.cache);
}

static void run_scaled(void *arg)
{
	atomic64_inc(&pct_ran);
}

/* While CPUs come and go: another one in each round, which may be gone by then. */
static void change_cpu(struct worker *w)
{
	unsigned int cpu, left = (w->hand.id + w->rounds) % num_online_cpus();

	for_each_online_cpu(cpu)
		if (!left--) {
			set_cpus_allowed_ptr(current, cpumask_of(cpu));
			return;
		}
}

static void work(struct worker *w)
{
	unsigned int i;

	if (probe_cpus_move())
		change_cpu(w);
	if (!cpumask_test_cpu(raw_smp_processor_id(), &made_with))
		cpumask_set_cpu(raw_smp_processor_id(), &came);
	if (!w->hand.id && pct)
		pct_given += taskq_dispatch(pct, run_scaled, NULL, TQ_SLEEP) != 0;
	for (i = 0; i < NR_KINDS && READ_ONCE(wish) == PROBE_WORK_RUNNING; i++) {
		struct kind *kind = &kinds[(i + w->hand.id * 2) % NR_KINDS];

		turn_over(w, kind);
		if (!is_kvmem(kind))
			take_atomically(kind);
		if (w->rounds % 4 == w->hand.id)
			spl_kmem_cache_reap_now(kind->cache);
		cond_resched();
	}
	use_kmem(w);
	if (!w->hand.id && w->rounds % 8 == 3)
		make_and_destroy(w);
	WRITE_ONCE(w->rounds, w->rounds + 1);
	schedule_timeout_uninterruptible(1);
}

static bool make_caches(void)
{
	struct kind *kind;

	cpumask_copy(&made_with, cpu_online_mask);
	for (kind = kinds; kind < kinds + NR_KINDS; kind++) {
		spl_kmem_cache_t *cache;

		spin_lock_init(&kind->lock);
		cache = spl_kmem_cache_create(kind->name, kind->size, kind->align, kind->builds ? construct : NULL,
					      kind->builds ? tear_down : NULL, NULL, kind, NULL, kind->flags);
		spin_lock(&caches_lock);
		kind->cache = cache;
		spin_unlock(&caches_lock);
		if (!cache)
			return false;
	}
	return true;
}

/* Since 2.1 (OpenZFS 60a4c7d2a2). */
static bool threads_follow_cpus(void)
{
	unsigned int major = 0, minor = 0;

	return sscanf(ZFS_META_VERSION, "%u.%u", &major, &minor) == 2 && (major > 2 || (major == 2 && minor >= 1));
}

/* Each box is full; and of some kinds so many are asked for without waiting that some are emergency objects. */
static void load_caches(void)
{
	struct kind *kind;
	unsigned int i, of;

	for (kind = kinds; kind < kinds + NR_KINDS; kind++)
		for (i = 0; i < NR_BOX; i++)
			give(kind, put_into_box(kind, i, take(kind, KM_SLEEP)));
	for (of = 0; of < ARRAY_SIZE(more_of); of++)
		for (i = 0; i < NR_MORE && atomic_read(&more_of[of]->emergency) < NR_EMERGENCY; i++)
			more[of][i] = take(more_of[of], KM_NOSLEEP);
	if (pct && threads_follow_cpus()) {
		/* One may just be made for the CPU that came last. */
		for (i = 0; i < 50 && READ_ONCE(pct->tq_nthreads) < num_online_cpus(); i++)
			schedule_timeout_uninterruptible(HZ / 50 + 1);
		of = num_online_cpus();
		probe_keep(&promises[FOR_CPUS], "taskq_create", min_t(unsigned int, READ_ONCE(pct->tq_nthreads), of), of);
	}
}

/* One at least is in the magazine of each CPU. */
static void fill_magazines(struct kind *kind)
{
	unsigned int cpu;

	for_each_online_cpu(cpu) {
		set_cpus_allowed_ptr(current, cpumask_of(cpu));
		give(kind, take(kind, KM_SLEEP));
	}
	settle(kind->cache);
}

static unsigned int in_other_magazines(const struct kind *kind, unsigned int own)
{
	unsigned int cpu, sum = 0;

	for_each_online_cpu(cpu)
		if (cpu != own)
			sum += READ_ONCE(kind->cache->skc_mag[cpu]->skm_avail);
	return sum;
}

/* What is in a magazine goes back from its own CPU alone. */
static void reap_everywhere(struct kind *kind)
{
	struct reclaim_state told = { 0 };
	unsigned long *pages = (unsigned long *)&told;	/* the first member, whatever its name */
	unsigned long slabs;
	unsigned int cpu;

	if (is_kvmem(kind))
		fill_magazines(kind);
	slabs = kind->cache->skc_slab_total;
	for_each_online_cpu(cpu) {
		unsigned int others = is_kvmem(kind) ? in_other_magazines(kind, cpu) : 0;

		set_cpus_allowed_ptr(current, cpumask_of(cpu));
		current->reclaim_state = &told;
		spl_kmem_cache_reap_now(kind->cache);
		current->reclaim_state = NULL;
		if (others)
			probe_keep(&promises[OWN_MAGAZINE], kind->name, in_other_magazines(kind, cpu), others);
	}
	set_cpus_allowed_ptr(current, cpu_possible_mask);
	slabs -= kind->cache->skc_slab_total;
	/* Others, such as the kernel's own caches, tell of theirs as well. */
	if (is_kvmem(kind) && slabs)
		probe_keep(&promises[RECLAIMED], kind->name,
			   min_t(u64, *pages, slabs * (kind->cache->skc_slab_size >> PAGE_SHIFT)),
			   slabs * (kind->cache->skc_slab_size >> PAGE_SHIFT));
}

static void empty_caches(void)
{
	struct kind *kind;
	unsigned int i, of;

	for (of = 0; of < ARRAY_SIZE(more_of); of++)
		for (i = 0; i < NR_MORE; i++) {
			give(more_of[of], more[of][i]);
			more[of][i] = NULL;
		}
	for (kind = kinds; kind < kinds + NR_KINDS; kind++) {
		for (i = 0; i < NR_BOX; i++)
			give(kind, put_into_box(kind, i, NULL));
		reap_everywhere(kind);
	}
}

static void destroy_caches(void)
{
	struct kind *kind;

	probe_send_exit();
	if (pct) {
		taskq_destroy(pct);
		probe_keep(&promises[SCALED], "taskq_destroy", atomic64_read(&pct_ran), pct_given);
	}
	pct = NULL;
	for (kind = kinds; kind < kinds + NR_KINDS; kind++) {
		spl_kmem_cache_t *cache = kind->cache;

		spin_lock(&caches_lock);
		kind->cache = NULL;
		spin_unlock(&caches_lock);
		if (cache)
			spl_kmem_cache_destroy(cache);
	}
}

/*
 * Caches are made while a CPU is away that is there afterwards; and one more
 * thread of a taskq that has as many as there are CPUs is made when it comes.
 */
static bool make_caches_without_a_cpu(void)
{
	unsigned int cpu = num_online_cpus() - 1;
	bool made;

	pct = taskq_create(PROBE_NAME "_pct", 100, minclsyspri, 4, 100, TASKQ_PREPOPULATE | TASKQ_THREADS_CPU_PCT);
	if (!cpu || remove_cpu(cpu))
		return make_caches();
	made = make_caches();
	if (add_cpu(cpu))
		pr_warn(PROBE_NAME ": CPU %u does not come back\n", cpu);
	return made;
}

static bool others_are_at(enum probe_work state)
{
	unsigned int i;

	for (i = 1; i < NR_WORKERS; i++)
		if (smp_load_acquire(&workers[i].hand.reached) < state)
			return false;
	return true;
}

/* The first worker does what is done once: it makes the caches before the others use them, and ends when they do not. */
static void go_on(struct worker *w)
{
	enum probe_work next = w->hand.reached + 1;

	if (!w->hand.id && next > PROBE_WORK_RUNNING && !others_are_at(next)) {
		schedule_timeout_uninterruptible(1);
		return;
	}
	if (w->hand.id && next == PROBE_WORK_RUNNING && smp_load_acquire(&workers[0].hand.reached) < next) {
		schedule_timeout_uninterruptible(1);
		return;
	}
	if (!w->hand.id && next == PROBE_WORK_RUNNING && !make_caches_without_a_cpu())
		probe_keep(&promises[NOT_NULL], "kmem_cache_create", 0, 1);
	/*
	 * All CPUs are there now: the second worker is on the one that was away. The first
	 * goes from one to the other at the end.
	 */
	if (w->hand.id && next == PROBE_WORK_RUNNING)
		set_cpus_allowed_ptr(current, cpumask_of((num_online_cpus() * NR_WORKERS - w->hand.id) % num_online_cpus()));
	if (!w->hand.id && next == PROBE_WORK_LOADED)
		load_caches();
	if (!w->hand.id && next == PROBE_WORK_EMPTIED)
		empty_caches();
	if (!w->hand.id && next == PROBE_WORK_GONE)
		destroy_caches();
	smp_store_release(&w->hand.reached, next);
}

static int worker_thread(void *data)
{
	struct worker *w = data;

	while (!kthread_should_stop()) {
		if (w->hand.reached < READ_ONCE(wish))
			go_on(w);
		else if (w->hand.reached == PROBE_WORK_RUNNING)
			work(w);
		else
			schedule_timeout_idle(HZ / 50 + 1);
	}
	return 0;
}

int probe_caches_want(enum probe_work state)
{
	unsigned int i;
	int err = 0;

	if (state <= wish)
		return -EINVAL;
	if (wish == PROBE_WORK_NONE)
		probe_keep_observer();
	WRITE_ONCE(wish, state);
	for (i = 0; i < NR_WORKERS && !err; i++)
		err = probe_hand_start(&workers[i].hand, worker_thread, &workers[i], 'k', i);
	return err;
}

void probe_caches_exit(void)
{
	unsigned int i;

	WRITE_ONCE(wish, PROBE_WORK_GONE);
	for (i = 0; i < NR_WORKERS; i++)
		probe_hand_stop(&workers[i].hand);
}

/* The type that SPL took, and the one that it is to take: by the flags, or by the size. */
static void show_kind(struct seq_file *m, struct kind *kind)
{
	int wanted = kind->flags ? kind->flags : kind->size > SLAB_LIMIT ? KMC_KVMEM : KMC_SLAB;
	unsigned int in_slab = 0, magazine = 0;

	seq_printf(m, "kind %s size=%zu align=%zu wanted=%d builds=%d held=%d emergency=%d allocs=%lld frees=%lld built=%lld torn_down=%lld",
		   kind->name, kind->size, kind->align, wanted == KMC_KVMEM, kind->builds,
		   atomic_read(&kind->held), atomic_read(&kind->emergency), atomic64_read(&kind->allocs),
		   atomic64_read(&kind->frees), atomic64_read(&kind->built), atomic64_read(&kind->torn_down));
	spin_lock(&caches_lock);
	if (kind->cache && is_kvmem(kind)) {
		in_slab = kind->cache->skc_slab_objs;
		magazine = kind->cache->skc_mag_size;
	}
	spin_unlock(&caches_lock);
	seq_printf(m, " in_slab=%u magazine=%u most_emergency=%d\n", in_slab, magazine,
		   atomic_read(&kind->most_emergency));
}

void probe_caches_show(struct seq_file *m)
{
	enum probe_work least = PROBE_WORK_GONE;
	u64 rounds = 0;
	unsigned int i;

	if (wish == PROBE_WORK_NONE)
		return;
	for (i = 0; i < NR_WORKERS; i++) {
		least = min(least, smp_load_acquire(&workers[i].hand.reached));
		rounds += READ_ONCE(workers[i].rounds);
	}
	seq_printf(m, "kinds state=%s rounds=%llu cpus=%u back=%u\n", probe_work_name(least), rounds,
		   num_online_cpus(), cpumask_weight(&came));
	for (i = 0; i < NR_KINDS; i++)
		show_kind(m, &kinds[i]);
	for (i = 0; i < NR_PROMISES; i++)
		probe_promise_show(m, "kpromise", &promises[i]);
}
