// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The lever: holds the worker that grows a cache, on an unmodified spl.ko.
 *
 * A hook sends every call of spl_cache_grow_work() here. While armed, the worker
 * waits on a real wait queue that nothing wakes but the release, so its count of
 * context switches stands still for as long as it is held: that is what proves
 * it stuck. Then it runs the original.
 */
#include <linux/atomic.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "slabprobe.h"
#include "hook.h"

static DECLARE_WAIT_QUEUE_HEAD(hold_wq);
static bool hold_armed;
static bool hold_own;		/* the worker of the cache under test alone */
static atomic_t held = ATOMIC_INIT(0);
static atomic64_t entries = ATOMIC64_INIT(0);
static pid_t hold_pid;
static u64 hold_since_ns;
static u64 released_ns;

static struct probe_hook grow_hook;

/* In every build a part of its caller, so that the stack of a held worker is the same. */
static __always_inline void slabprobe_held_grow(void)
{
	WRITE_ONCE(hold_pid, task_pid_nr(current));
	WRITE_ONCE(hold_since_ns, ktime_get_ns());
	atomic64_inc(&entries);
	atomic_inc(&held);
	wait_event(hold_wq, !READ_ONCE(hold_armed));
	WRITE_ONCE(released_ns, ktime_get_ns());
	atomic_dec(&held);
}

static void slabprobe_grow_work(void *data)
{
	void (*grow_work)(void *) = probe_hook_enter(&grow_hook);
	bool own = probe_threads_own(data);
	struct probe_grower *grower;
	u64 since_ns = own ? probe_growth_begin() : 0;

	if (READ_ONCE(hold_armed) && (own || !READ_ONCE(hold_own)))
		slabprobe_held_grow();
	grower = own ? probe_grow_begin() : NULL;
	if (own) {
		probe_fail_grow(grow_work, data);
		probe_growth_end(since_ns);
	} else {
		grow_work(data);
	}
	probe_grow_end(grower);
	probe_hook_leave(&grow_hook);
}

static struct probe_hook grow_hook = {
	.name = "spl_cache_grow_work",
	.replacement = slabprobe_grow_work,
};

/* An SPL without a worker can be loaded too: nothing will ever be held there. */
int probe_hold_init(void)
{
	int err = probe_hook_enable(&grow_hook);

	if (err != -ENOENT)
		return err;
	pr_warn(PROBE_NAME ": this SPL has no %s\n", grow_hook.name);
	return 0;
}

void probe_hold(bool own)
{
	WRITE_ONCE(hold_own, own);
	WRITE_ONCE(hold_armed, true);
}

void probe_release(void)
{
	WRITE_ONCE(hold_armed, false);
	wake_up_all(&hold_wq);
}

/* Whether a worker is held now. */
bool probe_holds(void)
{
	return atomic_read(&held) > 0;
}

void probe_hold_exit(void)
{
	probe_release();
	probe_hook_disable(&grow_hook);
}

void probe_hold_show(struct seq_file *m)
{
	seq_printf(m, "hold worker=%d armed=%d held=%d pid=%d since_ns=%llu entries=%lld released_ns=%llu\n",
		   grow_hook.enabled, READ_ONCE(hold_armed), atomic_read(&held),
		   READ_ONCE(hold_pid), READ_ONCE(hold_since_ns),
		   atomic64_read(&entries), READ_ONCE(released_ns));
}
