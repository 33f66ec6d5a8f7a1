// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The growth of the cache under test: how often the worker was at it, when it
 * was done last, and how many slabs were asked for, by whomever.
 *
 * The worker's part comes from the hook of hold.c. In an SPL without a worker
 * the growth is a part of spl_kmem_cache_alloc(), so slabs are counted where all
 * of them come from: vmalloc is asked for as many bytes as a slab has.
 */
#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/ktime.h>

#include "slabprobe.h"

static atomic64_t begun = ATOMIC64_INIT(0);
static atomic64_t done = ATOMIC64_INIT(0);
static atomic64_t slabs = ATOMIC64_INIT(0);
static atomic64_t busy_ns = ATOMIC64_INIT(0);	/* of all that are done */
static u64 begun_ns;				/* the last one */
static size_t slab_size;

/* The last ones that were done: when, and what all had taken until then. */
#define NR_ENDS 256
static struct probe_growth_end ends[NR_ENDS];

static int slab_asked_for(struct kprobe *kprobe, struct pt_regs *regs)
{
	if (regs_get_kernel_argument(regs, 0) == READ_ONCE(slab_size))
		atomic64_inc(&slabs);
	return 0;
}

static struct kprobe vmalloc_probe = {
	.pre_handler = slab_asked_for,
};
static bool counts_slabs;

/* What SPL calls has another name since Linux commit 88ae5fb755b0 (in v6.10). */
void probe_growth_init(void)
{
	static const char * const names[] = { "__vmalloc_noprof", "__vmalloc" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names) && !counts_slabs; i++) {
		vmalloc_probe.symbol_name = names[i];
		counts_slabs = !register_kprobe(&vmalloc_probe);
		/* A kprobe that was refused keeps the address that it was refused for. */
		if (!counts_slabs)
			vmalloc_probe.addr = NULL;
	}
	if (!counts_slabs)
		pr_warn(PROBE_NAME ": slabs are not counted, there is no __vmalloc to probe\n");
}

void probe_growth_exit(void)
{
	if (counts_slabs)
		unregister_kprobe(&vmalloc_probe);
}

/* Bytes of a slab of the cache under test. */
void probe_growth_of(size_t size)
{
	WRITE_ONCE(slab_size, size);
}

/* The worker comes to grow the cache; between the two it may be held. */
u64 probe_growth_begin(void)
{
	u64 now = ktime_get_ns();

	WRITE_ONCE(begun_ns, now);
	atomic64_inc(&begun);
	return now;
}

/* It has: its callers were woken just before. */
void probe_growth_end(u64 since_ns)
{
	u64 now = ktime_get_ns();
	u64 busy = atomic64_add_return(now - since_ns, &busy_ns);
	struct probe_growth_end *end = &ends[atomic64_read(&done) % NR_ENDS];

	WRITE_ONCE(end->when_ns, now);
	WRITE_ONCE(end->busy_ns, busy);
	/* Who sees the count sees the times. */
	smp_mb__before_atomic();
	atomic64_inc(&done);
}

u64 probe_growth_begun(void)
{
	return atomic64_read(&begun);
}

u64 probe_growth_done(void)
{
	return atomic64_read(&done);
}

/*
 * How much of the time since the end of a growth, the `index`th, until `now_ns`
 * no growth was under way; 0 if it has not ended, or not lately.
 */
u64 probe_growth_idle(u64 index, u64 now_ns)
{
	const struct probe_growth_end *end = &ends[index % NR_ENDS];
	u64 count = atomic64_read(&done), growing, since;

	smp_rmb();
	if (count <= index || count - index >= NR_ENDS)
		return 0;
	growing = atomic64_read(&busy_ns) - READ_ONCE(end->busy_ns);
	since = READ_ONCE(begun_ns);
	if (atomic64_read(&begun) > count && now_ns > since)
		growing += now_ns - since;
	since = READ_ONCE(end->when_ns);
	return now_ns > since + growing ? now_ns - since - growing : 0;
}

u64 probe_growth_slabs(void)
{
	return atomic64_read(&slabs);
}

void probe_growth_show(struct seq_file *m)
{
	seq_printf(m, "growth begun=%lld done=%lld", atomic64_read(&begun), atomic64_read(&done));
	if (counts_slabs)
		seq_printf(m, " slabs=%lld", atomic64_read(&slabs));
	seq_putc(m, '\n');
}
