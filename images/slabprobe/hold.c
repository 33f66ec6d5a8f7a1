// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The lever: holds the worker that grows a cache, on an unmodified spl.ko.
 *
 * An ftrace hook with IPMODIFY sends every call of spl_cache_grow_work() here.
 * While armed, the worker waits on a real wait queue that nothing wakes but the
 * release, so its count of context switches stands still for as long as it is
 * held: that is what proves it stuck. Then it runs the original, entered just
 * past the ftrace call site so that the hook does not see it again.
 */
#include <linux/atomic.h>
#include <linux/ftrace.h>
#include <linux/ktime.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/version.h>
#include <linux/wait.h>

#include "slabprobe.h"

#define GROW_WORK "spl_cache_grow_work"

static DECLARE_WAIT_QUEUE_HEAD(hold_wq);
static bool hold_armed;
static atomic_t held = ATOMIC_INIT(0);
static atomic_t inside = ATOMIC_INIT(0);
static atomic64_t entries = ATOMIC64_INIT(0);
static pid_t hold_pid;
static u64 hold_since_ns;
static u64 released_ns;
static unsigned long original;

static void slabprobe_held_grow(void)
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
	void (*grow_work)(void *) = (void *)READ_ONCE(original);

	atomic_inc(&inside);
	if (READ_ONCE(hold_armed))
		slabprobe_held_grow();
	grow_work(data);
	atomic_dec(&inside);
}

/* ftrace hands over its own register type since Linux commit d19ad0775dcd. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);
#else
static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct pt_regs *regs)
{
#endif
	WRITE_ONCE(original, ip + MCOUNT_INSN_SIZE);
	regs->ip = (unsigned long)slabprobe_grow_work;
}

static struct ftrace_ops divert_ops = {
	.func = divert,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY,
};

int probe_hold_init(void)
{
	int err;

	err = ftrace_set_filter(&divert_ops, GROW_WORK, strlen(GROW_WORK), 1);
	if (err) {
		pr_err(PROBE_NAME ": cannot trace " GROW_WORK ": %d\n", err);
		return err;
	}
	err = register_ftrace_function(&divert_ops);
	if (err)
		pr_err(PROBE_NAME ": cannot divert " GROW_WORK ": %d\n", err);
	return err;
}

void probe_hold(void)
{
	WRITE_ONCE(hold_armed, true);
}

void probe_release(void)
{
	WRITE_ONCE(hold_armed, false);
	wake_up_all(&hold_wq);
}

/*
 * No worker may be left in code that is about to go: first nobody comes in any
 * more, then everybody leaves, and at last every task has switched voluntarily,
 * that is, also has run the few instructions behind the last atomic_dec().
 */
void probe_hold_exit(void)
{
	probe_release();
	unregister_ftrace_function(&divert_ops);
	/* Gives the filter's memory back. ftrace_free_filter() is for modules since Linux commit 8be9fbd5345d only. */
	ftrace_set_filter(&divert_ops, NULL, 0, 1);
	synchronize_rcu_tasks();
	while (atomic_read(&inside))
		schedule_timeout_uninterruptible(1);
	synchronize_rcu_tasks();
}

void probe_hold_show(struct seq_file *m)
{
	seq_printf(m, "hold armed=%d held=%d pid=%d since_ns=%llu entries=%lld released_ns=%llu\n",
		   READ_ONCE(hold_armed), atomic_read(&held),
		   READ_ONCE(hold_pid), READ_ONCE(hold_since_ns),
		   atomic64_read(&entries), READ_ONCE(released_ns));
}
