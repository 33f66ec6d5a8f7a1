// SPDX-License-Identifier: GPL-2.0-or-later
/* Threads of the work with taskqs, caches and memory. */
#include <linux/err.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/sched.h>

#include "slabprobe.h"
#include "work.h"

int probe_hand_start(struct probe_hand *hand, int (*run)(void *), void *data, char letter, unsigned int id)
{
	struct task_struct *task;

	if (hand->task)
		return 0;
	hand->id = id;
	task = kthread_create(run, data, PROBE_NAME "/%c%u", letter, id);
	if (IS_ERR(task))
		return PTR_ERR(task);
	hand->task = task;
	wake_up_process(task);
	return 0;
}

void probe_hand_stop(struct probe_hand *hand)
{
	if (!hand->task)
		return;
	while (smp_load_acquire(&hand->reached) != PROBE_WORK_GONE)
		schedule_timeout_uninterruptible(HZ / 10);
	kthread_stop(hand->task);
}
