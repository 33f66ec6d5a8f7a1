// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Memory that is no object of a cache: kmem_alloc(), vmem_alloc() and strings, of
 * sizes from some bytes to more than kmalloc() may give, with every flag. Two
 * threads ask: one as it is, and one that is marked as those that write back.
 *
 * Where free memory lies in single pages a large piece cannot come from kmalloc(),
 * and SPL has to take it from vmalloc.
 *
 * A thread that waits for ever is told by the step in which it is, and since when.
 */
#include <sys/kmem.h>
#include <sys/thread.h>
#include <sys/vmem.h>

#include <linux/atomic.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>

#include "slabprobe.h"
#include "work.h"

#define NR_THREADS	2
#define NR_HELD		4	/* pieces in hand at once */
#define NR_LARGE	24	/* likewise, of those for which a few blocks may be left */
#define LARGE		60000	/* the most for which kmem_alloc() does not warn, nearly; sixteen pages */
#define LARGER		300000
#define LARGEST		SZ_2M	/* more than kmalloc() is asked for */

enum { NOT_NULL, NO_SLEEP, ZEROED, WHOLE, TEXT, MARK, NR_PROMISES };

static struct probe_promise promises[NR_PROMISES] = {
	[NOT_NULL] = { "given" },	/* who may sleep gets some */
	[NO_SLEEP] = { "no-wait" },	/* who may not sleep does not */
	[ZEROED] = { "cleared" },
	[WHOLE] = { "kept" },		/* what was written to it */
	[TEXT] = { "same-text" },
	[MARK] = { "mark" },		/* it is taken back by whom it was set first */
};

static struct taker {
	struct probe_hand hand;
	u64 rounds;
	const char *step;	/* NULL: between two */
	u64 since_ns;
	void *held[NR_HELD];
	/* Large pieces that kmem_alloc() and vmem_alloc() were asked for, and those that vmalloc gave. */
	u64 asked[2], fell_back[2];
} takers[NR_THREADS];

enum { KMEM, VMEM };

static enum probe_work wish = PROBE_WORK_NONE;
static DEFINE_SPINLOCK(atomic_lock);

static bool is_marked(const struct taker *t)
{
	return t->hand.id;
}

/* kmem_alloc() falls back to vmalloc since 2.2 (OpenZFS bbcec73783). */
static bool kmem_falls_back(void)
{
	unsigned int major = 0, minor = 0;

	return sscanf(ZFS_META_VERSION, "%u.%u", &major, &minor) == 2 && (major > 2 || (major == 2 && minor >= 2));
}

static void *get(int from, size_t size, int flags, bool zeroed)
{
	if (from == VMEM)
		return zeroed ? vmem_zalloc(size, flags) : vmem_alloc(size, flags);
	return zeroed ? kmem_zalloc(size, flags) : kmem_alloc(size, flags);
}

static const char *name_of(int from, bool zeroed)
{
	if (from == VMEM)
		return zeroed ? "vmem_zalloc" : "vmem_alloc";
	return zeroed ? "kmem_zalloc" : "kmem_alloc";
}

/* The first word depends on the place, the last one on both, as those of each page between. */
static void stamp(void *buf, size_t size)
{
	size_t at;

	memset(buf, 0x5a, size);
	for (at = 0; at + 8 <= size; at += PAGE_SIZE)
		*(u64 *)(buf + at) = (unsigned long)buf + at;
}

static bool is_whole(const void *buf, size_t size)
{
	size_t at;

	for (at = 0; at + 8 <= size; at += PAGE_SIZE)
		if (*(u64 *)(buf + at) != (unsigned long)buf + at)
			return false;
	return ((u8 *)buf)[size - 1] == 0x5a;
}

static void *take(struct taker *t, int from, size_t size, int flags, bool zeroed)
{
	unsigned long sleeps = current->nvcsw;
	void *buf = get(from, size, flags, zeroed);

	if (flags & KM_NOSLEEP)
		probe_keep(&promises[NO_SLEEP], name_of(from, zeroed), current->nvcsw - sleeps, 0);
	else
		probe_keep(&promises[NOT_NULL], name_of(from, zeroed), buf != NULL, 1);
	if (size > PAGE_SIZE && size < LARGEST && !(flags & KM_NOSLEEP)) {
		t->asked[from]++;
		t->fell_back[from] += buf && is_vmalloc_addr(buf);
	}
	if (!buf)
		return NULL;
	if (zeroed)
		probe_keep(&promises[ZEROED], name_of(from, zeroed), memchr_inv(buf, 0, size) != NULL, 0);
	stamp(buf, size);
	return buf;
}

static void give(int from, void *buf, size_t size)
{
	if (!buf)
		return;
	probe_keep(&promises[WHOLE], name_of(from, false), is_whole(buf, size), 1);
	if (from == VMEM)
		vmem_free(buf, size);
	else
		kmem_free(buf, size);
}

/* Some at once, with each flag, every second one zeroed. */
static void take_some(struct taker *t, int from, size_t size)
{
	static const int flags[] = { KM_SLEEP, KM_PUSHPAGE };
	unsigned int i, count = size == LARGE ? NR_LARGE : NR_HELD;
	void *taken[NR_LARGE];

	for (i = 0; i < count; i++)
		taken[i] = take(t, from, size, flags[i / 2 % 2], i % 2);
	for (i = 0; i < count; i++)
		give(from, taken[i], size);
}

static void step_small(struct taker *t)
{
	static const size_t sizes[] = { 16, 200, 3000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		take_some(t, KMEM, sizes[i]);
		take_some(t, VMEM, sizes[i]);
		give(KMEM, take(t, KMEM, sizes[i], KM_NOSLEEP, t->rounds % 2), sizes[i]);
	}
}

static void step_kmem(struct taker *t)
{
	if (kmem_falls_back() || !probe_is_fragmented())
		take_some(t, KMEM, LARGE);
}

static void step_vmem(struct taker *t)
{
	take_some(t, VMEM, LARGE);
	take_some(t, VMEM, LARGER);
}

static void step_largest(struct taker *t)
{
	give(VMEM, take(t, VMEM, LARGEST, KM_SLEEP, t->rounds % 2), LARGEST);
}

static void step_nosleep(struct taker *t)
{
	give(KMEM, take(t, KMEM, LARGE, KM_NOSLEEP, false), LARGE);
	give(VMEM, take(t, VMEM, LARGER, KM_NOSLEEP, true), LARGER);
}

static void step_atomic(struct taker *t)
{
	void *buf, *zeroed;

	spin_lock(&atomic_lock);
	buf = take(t, KMEM, 3000, KM_NOSLEEP, false);
	zeroed = take(t, VMEM, 200, KM_NOSLEEP, true);
	spin_unlock(&atomic_lock);
	give(KMEM, buf, 3000);
	give(VMEM, zeroed, 200);
}

static void step_text(struct taker *t)
{
	static const int widths[] = { 0, 30, 3000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(widths); i++) {
		char *text = kmem_asprintf("%s of %u%*s", PROBE_NAME, t->hand.id, widths[i], "|");
		char *copy = text ? kmem_strdup(text) : NULL;
		size_t length = strlen(PROBE_NAME) + 5 + max(widths[i], 1);

		probe_keep(&promises[NOT_NULL], "kmem_asprintf", text && copy, 1);
		if (text && copy)
			probe_keep(&promises[TEXT], "kmem_strdup", strcmp(text, copy), 0);
		if (text)
			probe_keep(&promises[TEXT], "kmem_asprintf", strlen(text) == length && text[length - 1] == '|', 1);
		if (copy)
			kmem_strfree(copy);
		if (text)
			kmem_strfree(text);
	}
}

static bool has_mark(void)
{
	return current->flags & PF_MEMALLOC_NOIO;
}

/* A mark within a mark, as where a transaction calls what marks itself. */
static void step_mark(struct taker *t)
{
	bool before = has_mark();
	fstrans_cookie_t outer = spl_fstrans_mark(), inner = spl_fstrans_mark();

	/* There are builds whose mark does nothing; what comes of that is asked elsewhere. */
	bool works = has_mark();

	spl_fstrans_unmark(inner);
	if (works)
		probe_keep(&promises[MARK], "spl_fstrans_unmark-within", has_mark(), 1);
	spl_fstrans_unmark(outer);
	probe_keep(&promises[MARK], "spl_fstrans_unmark", has_mark(), before);
}

static const struct {
	const char *name;
	void (*take)(struct taker *t);
} steps[] = {
	{ "small", step_small },
	{ "kmem", step_kmem },
	{ "vmem", step_vmem },
	{ "largest", step_largest },
	{ "nosleep", step_nosleep },
	{ "atomic", step_atomic },
	{ "text", step_text },
	{ "mark", step_mark },
};

static void begin(struct taker *t, const char *step)
{
	WRITE_ONCE(t->since_ns, ktime_get_ns());
	smp_store_release(&t->step, step);
}

static void end(struct taker *t)
{
	smp_store_release(&t->step, NULL);
}

static void take_steps(struct taker *t)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps) && READ_ONCE(wish) == PROBE_WORK_RUNNING; i++) {
		begin(t, steps[i].name);
		steps[i].take(t);
		end(t);
		cond_resched();
	}
	if (!is_marked(t))
		probe_fragment_again();
	WRITE_ONCE(t->rounds, t->rounds + 1);
	schedule_timeout_uninterruptible(1);
}

/* At rest each has some of the largest pieces in hand, then none. */
static void go_on(struct taker *t)
{
	unsigned int i;

	begin(t, "rest");
	for (i = 0; i < NR_HELD; i++) {
		if (t->hand.reached == PROBE_WORK_RUNNING)
			t->held[i] = take(t, VMEM, LARGEST, KM_SLEEP, false);
		if (t->hand.reached == PROBE_WORK_LOADED)
			give(VMEM, t->held[i], LARGEST);
	}
	end(t);
	smp_store_release(&t->hand.reached, t->hand.reached + 1);
}

static int taker_thread(void *data)
{
	struct taker *t = data;
	fstrans_cookie_t cookie = { 0 };

	if (is_marked(t))
		cookie = spl_fstrans_mark();
	while (!kthread_should_stop()) {
		if (t->hand.reached < READ_ONCE(wish))
			go_on(t);
		else if (t->hand.reached == PROBE_WORK_RUNNING)
			take_steps(t);
		else
			schedule_timeout_idle(HZ / 50 + 1);
	}
	if (is_marked(t))
		spl_fstrans_unmark(cookie);
	return 0;
}

int probe_memory_want(enum probe_work state)
{
	unsigned int i;
	int err = 0;

	if (state <= wish)
		return -EINVAL;
	WRITE_ONCE(wish, state);
	for (i = 0; i < NR_THREADS && !err; i++)
		err = probe_hand_start(&takers[i].hand, taker_thread, &takers[i], 'm', i);
	return err;
}

void probe_memory_exit(void)
{
	unsigned int i;

	WRITE_ONCE(wish, PROBE_WORK_GONE);
	for (i = 0; i < NR_THREADS; i++)
		probe_hand_stop(&takers[i].hand);
}

void probe_memory_show(struct seq_file *m)
{
	unsigned int i;

	if (wish == PROBE_WORK_NONE)
		return;
	for (i = 0; i < NR_THREADS; i++) {
		struct taker *t = &takers[i];
		const char *step = smp_load_acquire(&t->step);

		seq_printf(m, "taker %u pid=%d state=%s rounds=%llu step=%s since_ns=%llu marked=%d kmem_falls_back=%d", i,
			   t->hand.task ? task_pid_nr(t->hand.task) : 0, probe_work_name(smp_load_acquire(&t->hand.reached)),
			   READ_ONCE(t->rounds), step ? step : "-", step ? READ_ONCE(t->since_ns) : 0, is_marked(t),
			   kmem_falls_back());
		seq_printf(m, " kmem=%llu kmem_back=%llu vmem=%llu vmem_back=%llu\n", READ_ONCE(t->asked[KMEM]),
			   READ_ONCE(t->fell_back[KMEM]), READ_ONCE(t->asked[VMEM]), READ_ONCE(t->fell_back[VMEM]));
	}
	for (i = 0; i < NR_PROMISES; i++)
		probe_promise_show(m, "mpromise", &promises[i]);
}
