// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * CPUs that go and come: all but the first are taken away, or brought back, or one
 * after the other goes or comes for as long as that is asked for.
 */
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "slabprobe.h"
#include "work.h"

#define MAX_OBSERVERS	16

static struct task_struct *mover;
static enum probe_cpus wish = PROBE_CPUS_ALL;
static u64 went, came, failed;

static const char * const names[] = {
	[PROBE_CPUS_ALL] = "all",
	[PROBE_CPUS_AWAY] = "away",
	[PROBE_CPUS_MOVING] = "moving",
};

bool probe_cpus_move(void)
{
	return READ_ONCE(wish) == PROBE_CPUS_MOVING;
}

static void turn(unsigned int cpu, bool on)
{
	if (cpu_online(cpu) == on)
		return;
	if (on ? add_cpu(cpu) : remove_cpu(cpu))
		WRITE_ONCE(failed, failed + 1);
	else if (on)
		WRITE_ONCE(came, came + 1);
	else
		WRITE_ONCE(went, went + 1);
}

static void turn_all(bool on)
{
	unsigned int cpu;

	for_each_present_cpu(cpu)
		if (cpu != cpumask_first(cpu_present_mask))
			turn(cpu, on);
}

/* Any but the first, on which this thread is. */
static unsigned int any_other(void)
{
	unsigned int cpu = cpumask_first(cpu_present_mask), left = get_random_u32() % (num_present_cpus() - 1);

	do
		cpu = cpumask_next(cpu, cpu_present_mask);
	while (left--);
	return cpu;
}

static int mover_thread(void *data)
{
	while (!kthread_should_stop()) {
		enum probe_cpus now = READ_ONCE(wish);

		if (now == PROBE_CPUS_MOVING) {
			unsigned int cpu = any_other();

			turn(cpu, !cpu_online(cpu));
		} else {
			turn_all(now == PROBE_CPUS_ALL);
		}
		schedule_timeout_uninterruptible(HZ / 50 + 1);
	}
	return 0;
}

enum probe_cpus probe_cpus_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(names); i++)
		if (name && !strcmp(name, names[i]))
			break;
	return i;
}

/*
 * Whoever has CPUs taken away is an observer, and stays on the first CPU with all its threads:
 * Linux 5.10 may lose a timer that is set on a CPU which goes ("WARNING" in
 * enqueue_hrtimer()), and nothing would be read any more.
 */
void probe_keep_observer(void)
{
	struct task_struct *threads[MAX_OBSERVERS], *thread;
	unsigned int i, count = 0;

	rcu_read_lock();
	for_each_thread(current, thread)
		if (count < MAX_OBSERVERS) {
			get_task_struct(thread);
			threads[count++] = thread;
		}
	rcu_read_unlock();
	for (i = 0; i < count; i++) {
		set_cpus_allowed_ptr(threads[i], cpumask_of(cpumask_first(cpu_present_mask)));
		put_task_struct(threads[i]);
	}
}

int probe_cpus_want(enum probe_cpus state)
{
	struct task_struct *task;

	if (state >= ARRAY_SIZE(names))
		return -EINVAL;
	if (num_present_cpus() < 2)
		return -EBUSY;
	if (mover) {
		WRITE_ONCE(wish, state);
		return 0;
	}
	probe_keep_observer();
	WRITE_ONCE(wish, state);
	task = kthread_create(mover_thread, NULL, PROBE_NAME "/cpus");
	if (IS_ERR(task))
		return PTR_ERR(task);
	kthread_bind(task, cpumask_first(cpu_present_mask));
	mover = task;
	wake_up_process(task);
	return 0;
}

void probe_cpus_exit(void)
{
	if (mover)
		kthread_stop(mover);
	mover = NULL;
}

void probe_cpus_show(struct seq_file *m)
{
	if (mover)
		seq_printf(m, "cpus state=%s present=%u online=%u went=%llu came=%llu failed=%llu\n", names[wish],
			   num_present_cpus(), num_online_cpus(), READ_ONCE(went), READ_ONCE(came), READ_ONCE(failed));
}
