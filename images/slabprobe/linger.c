// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Races of some instructions: whoever goes to sleep in a thread of the probe's taskqs,
 * and the timer of a delayed task, is kept for a while just before it, so that another
 * CPU gets in between. Where SPL holds its lock there, nobody does.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "slabprobe.h"
#include "work.h"

#define LINGER_US	150

static atomic_t wished = ATOMIC_INIT(0);

static int linger(struct kprobe *probe, struct pt_regs *regs)
{
	if (atomic_read(&wished))
		udelay(LINGER_US);
	return 0;
}

static int linger_in_taskq(struct kprobe *probe, struct pt_regs *regs)
{
	return str_has_prefix(current->comm, PROBE_NAME "_one") ? linger(probe, regs) : 0;
}

static struct kprobe before_sleep = {
	.symbol_name = "add_wait_queue_exclusive",
	.pre_handler = linger_in_taskq,
};

/* SPL's; whose it is, nobody can tell here, and SPL's own tasks are seldom delayed. */
static struct kprobe timer = {
	.symbol_name = "task_expire",
	.pre_handler = linger,
};

static bool sleeps, expires;

/* Without one of them the steps are as they are, and meet a race by chance. */
void probe_linger_init(void)
{
	sleeps = sleeps || !register_kprobe(&before_sleep);
	expires = expires || !register_kprobe(&timer);
}

void probe_linger_exit(void)
{
	if (sleeps)
		unregister_kprobe(&before_sleep);
	if (expires)
		unregister_kprobe(&timer);
}

void probe_linger(bool on)
{
	atomic_add(on ? 1 : -1, &wished);
}
