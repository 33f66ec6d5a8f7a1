// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a client does with taskqs, step by step, and what it asks for after each step.
 */
#include <sys/kmem.h>
#include <sys/taskq.h>
#include <sys/thread.h>
#include <sys/timer.h>

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/err.h>
#include <linux/irqflags.h>
#include <linux/ktime.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/sched/prio.h>
#include <linux/sched/task.h>
#include <linux/wait.h>

#include "queues.h"

#define CHAIN		48	/* tasks, each of which dispatches the next one */
#define HURRY_NS	(20 * NSEC_PER_MSEC)	/* of each round are for tasks that follow each other closely */
#define NR_EXPIRIES	3
#define SPIN_NS		(500 * NSEC_PER_USEC)	/* at most for one of these, before it is slept for */

int probe_queue_cancel(taskq_t *queue, taskqid_t id)
{
	/* Newer ones ask whether to wait; if there is no third argument, nobody looks into its register. */
	int (*cancel_id)(taskq_t *, taskqid_t, int) = (void *)&taskq_cancel_id;

	return cancel_id(queue, id, 1);
}

/* Of a task that never was: nothing is found, and nobody waits. */
static void cancel_nothing(struct client *c)
{
	(void) probe_queue_cancel(c->queues[TWO], ULONG_MAX);
}

void probe_job_make(struct client *c, unsigned int i, taskq_t *queue)
{
	c->jobs[i] = (struct job) { .client = c, .queue = queue };
}

/* Where a wait came back too early, tasks may still be on their way to what is used anew. */
void probe_jobs_make(struct client *c, taskq_t *queue)
{
	unsigned int i;

	for (i = 0; i < NR_JOBS; i++)
		if (c->jobs[i].due)
			wait_event_timeout(probe_queues_wq, atomic_read(&c->jobs[i].ran), HZ);
	atomic_set(&c->order, 0);
	for (i = 0; i < NR_JOBS; i++)
		probe_job_make(c, i, queue);
}

static void ask_inside(struct job *job)
{
	probe_keep(&probe_queue_promises[MEMBER], "task", taskq_member(job->queue, current), 1);
	probe_keep(&probe_queue_promises[JOURNAL], "task", current->journal_info != NULL, 0);
	probe_keep(&probe_queue_promises[PRIORITY], "taskq", task_nice(current), PRIO_TO_NICE(job->queue->tq_pri));
}

void probe_job_run(void *arg)
{
	struct job *job = arg;

	ask_inside(job);
	job->place = atomic_inc_return(&job->client->order);
	job->when = jiffies;
	atomic_inc(&job->ran);
	wake_up_all(&probe_queues_wq);
}

static void run_nap(void *arg)
{
	schedule_timeout_uninterruptible(1);
	probe_job_run(arg);
}

static void run_gate(void *arg)
{
	struct job *job = arg;

	WRITE_ONCE(job->running, true);
	wake_up_all(&probe_queues_wq);
	wait_event(probe_queues_wq, READ_ONCE(job->open));
	probe_job_run(arg);
}

taskqid_t probe_job_dispatch(struct client *c, unsigned int i, task_func_t func, unsigned int flags)
{
	taskqid_t id = taskq_dispatch(c->jobs[i].queue, func, &c->jobs[i], flags);

	c->jobs[i].due = id != 0;
	if (!(flags & TQ_NOSLEEP))
		probe_keep(&probe_queue_promises[DISPATCHED], c->step, id != 0, 1);
	c->ids[i] = id;
	return id;
}

void probe_gate_close(struct client *c, unsigned int i)
{
	if (probe_job_dispatch(c, i, run_gate, TQ_SLEEP))
		wait_event(probe_queues_wq, READ_ONCE(c->jobs[i].running));
}

void probe_gate_open(struct client *c, unsigned int i)
{
	WRITE_ONCE(c->jobs[i].open, true);
	wake_up_all(&probe_queues_wq);
}

static unsigned int ran(struct client *c, unsigned int from, unsigned int to)
{
	unsigned int sum = 0;

	for (; from < to; from++)
		sum += atomic_read(&c->jobs[from].ran);
	return sum;
}

static void step_wait(struct client *c)
{
	unsigned int i, times = 0;

	probe_jobs_make(c, c->queues[TWO]);
	for (i = 0; i < 6; i++)
		times += probe_job_dispatch(c, i, i % 2 ? run_nap : probe_job_run,
					    i == 3 ? TQ_FRONT : i == 4 ? TQ_PUSHPAGE : TQ_SLEEP) != 0;
	taskq_wait(c->queues[TWO]);
	probe_keep(&probe_queue_promises[WAIT], "taskq_wait", ran(c, 0, 6), times);
	for (i = 0; i < 6; i++)
		if (c->ids[i])
			probe_keep(&probe_queue_promises[RAN_ONCE], "taskq_wait", atomic_read(&c->jobs[i].ran), 1);
}

static void step_wait_id(struct client *c)
{
	unsigned int i;

	probe_jobs_make(c, c->queues[ONE]);
	for (i = 0; i < 4; i++)
		probe_job_dispatch(c, i, i % 2 ? probe_job_run : run_nap, TQ_SLEEP);
	taskq_wait_id(c->queues[ONE], c->ids[1]);
	probe_keep(&probe_queue_promises[WAIT_ID], "taskq_wait_id", atomic_read(&c->jobs[1].ran), 1);
	taskq_wait_id(c->queues[ONE], c->ids[3]);
	probe_keep(&probe_queue_promises[WAIT_ID], "taskq_wait_id", ran(c, 0, 4), 4);
	/* One that has long run is not waited for. */
	taskq_wait_id(c->queues[ONE], c->ids[0]);
}

static void run_link(void *arg)
{
	struct client *c = arg;

	schedule_timeout_uninterruptible(1);
	if (atomic_inc_return(&c->chained) < atomic_read(&c->links) && !READ_ONCE(c->chain_ends))
		(void) taskq_dispatch(c->queues[ONE], run_link, c, TQ_SLEEP);
}

static void begin_chain(struct client *c, int links)
{
	atomic_set(&c->chained, 0);
	atomic_set(&c->links, links);
	WRITE_ONCE(c->chain_ends, false);
	probe_keep(&probe_queue_promises[DISPATCHED], c->step, taskq_dispatch(c->queues[ONE], run_link, c, TQ_SLEEP) != 0, 1);
}

static void step_outstanding(struct client *c)
{
	probe_jobs_make(c, c->queues[ONE]);
	probe_job_dispatch(c, 0, run_nap, TQ_SLEEP);
	begin_chain(c, CHAIN);
	taskq_wait_outstanding(c->queues[ONE], 0);
	probe_keep(&probe_queue_promises[OUTSTANDING], "taskq_wait_outstanding", atomic_read(&c->jobs[0].ran), 1);
	probe_keep(&probe_queue_promises[OUTSTANDING_ENDS], "taskq_wait_outstanding", atomic_read(&c->chained) >= CHAIN, 0);
	WRITE_ONCE(c->chain_ends, true);
	taskq_wait(c->queues[ONE]);
}

static void step_wait_empty(struct client *c)
{
	begin_chain(c, 4);
	taskq_wait(c->queues[ONE]);
	probe_keep(&probe_queue_promises[WAIT_EMPTY], "taskq_wait", atomic_read(&c->chained), 4);
}

static void step_order(struct client *c)
{
	static const unsigned int wanted[] = { 1, 4, 5, 2, 3 };
	unsigned int i;

	probe_jobs_make(c, c->queues[ONE]);
	probe_gate_close(c, 0);
	probe_job_dispatch(c, 1, probe_job_run, TQ_SLEEP);
	probe_job_dispatch(c, 2, probe_job_run, TQ_SLEEP);
	probe_job_dispatch(c, 3, probe_job_run, TQ_FRONT);
	probe_job_dispatch(c, 4, probe_job_run, TQ_FRONT);
	probe_gate_open(c, 0);
	taskq_wait(c->queues[ONE]);
	for (i = 0; i < ARRAY_SIZE(wanted); i++)
		probe_keep(&probe_queue_promises[ORDER], i > 2 ? "TQ_FRONT" : "TQ_SLEEP", c->jobs[i].place, wanted[i]);
}

static void step_delay(struct client *c)
{
	unsigned long due = jiffies + 3;

	probe_jobs_make(c, c->queues[TWO]);
	c->ids[0] = taskq_dispatch_delay(c->queues[TWO], probe_job_run, &c->jobs[0], TQ_SLEEP, due);
	probe_keep(&probe_queue_promises[DISPATCHED], "taskq_dispatch_delay", c->ids[0] != 0, 1);
	taskq_wait_id(c->queues[TWO], c->ids[0]);
	probe_keep(&probe_queue_promises[WAIT_ID], "taskq_dispatch_delay", atomic_read(&c->jobs[0].ran), 1);
	probe_keep(&probe_queue_promises[DELAY], "taskq_dispatch_delay", time_before(c->jobs[0].when, due), 0);
}

static void step_cancel(struct client *c)
{
	taskq_t *queue = c->queues[ONE];

	probe_jobs_make(c, queue);
	probe_gate_close(c, 0);
	probe_job_dispatch(c, 1, probe_job_run, TQ_SLEEP);
	probe_job_dispatch(c, 2, probe_job_run, TQ_FRONT);
	probe_job_dispatch(c, 3, probe_job_run, TQ_SLEEP);
	/* Long before its time: who is cancelled just then, or has its timer go off, is a race of its own. */
	c->ids[4] = taskq_dispatch_delay(queue, probe_job_run, &c->jobs[4], TQ_SLEEP, jiffies + FAR_AWAY);
	probe_keep(&probe_queue_promises[CANCEL], "pending", probe_queue_cancel(queue, c->ids[1]), 0);
	probe_keep(&probe_queue_promises[CANCEL], "front", probe_queue_cancel(queue, c->ids[2]), 0);
	probe_keep(&probe_queue_promises[CANCEL], "delayed", probe_queue_cancel(queue, c->ids[4]), 0);
	c->jobs[1].due = c->jobs[2].due = false;
	probe_gate_open(c, 0);
	taskq_wait(queue);
	probe_keep(&probe_queue_promises[CANCELLED], "pending", atomic_read(&c->jobs[1].ran), 0);
	probe_keep(&probe_queue_promises[CANCELLED], "front", atomic_read(&c->jobs[2].ran), 0);
	probe_keep(&probe_queue_promises[CANCELLED], "delayed", atomic_read(&c->jobs[4].ran), 0);
	probe_keep(&probe_queue_promises[WAIT], "taskq_cancel_id", ran(c, 0, 5), 2);
	probe_keep(&probe_queue_promises[CANCEL], "done", probe_queue_cancel(queue, c->ids[3]), ENOENT);
	probe_job_dispatch(c, 5, run_nap, TQ_SLEEP);
	/* It runs, or it does not yet. */
	c->jobs[5].due = probe_queue_cancel(queue, c->ids[5]) != 0;
	if (!c->jobs[5].due)
		probe_keep(&probe_queue_promises[CANCELLED], "at-once", atomic_read(&c->jobs[5].ran), 0);
	else
		probe_keep(&probe_queue_promises[WAIT_ID], "taskq_cancel_id", atomic_read(&c->jobs[5].ran), 1);
}

static void run_nested(void *arg)
{
	struct job *job = arg, *below = job + 1;
	taskqid_t id;

	if (job - job->client->jobs < DEPTH) {
		id = taskq_dispatch(job->queue, run_nested, below, TQ_SLEEP);
		probe_keep(&probe_queue_promises[DISPATCHED], "nested", id != 0, 1);
		if (id)
			taskq_wait_id(job->queue, id);
	}
	probe_job_run(job);
}

/* Each level takes a thread for itself, and there may be as many as there are levels. */
static void step_nested(struct client *c)
{
	probe_jobs_make(c, c->queues[DYN]);
	if (probe_job_dispatch(c, 0, run_nested, TQ_SLEEP))
		taskq_wait_id(c->queues[DYN], c->ids[0]);
	probe_keep(&probe_queue_promises[WAIT_ID], "nested", ran(c, 0, NR_JOBS), DEPTH + 1);
}

/* No thread is idle, none is being made, and there may be one more. */
static bool one_more_is_needed(taskq_t *queue)
{
	unsigned long flags;
	bool needed;

	spin_lock_irqsave(&queue->tq_lock, flags);
	needed = queue->tq_nactive == queue->tq_nthreads && !queue->tq_nspawn && queue->tq_nthreads < DYN_THREADS;
	spin_unlock_irqrestore(&queue->tq_lock, flags);
	return needed;
}

/* Whoever was asked to make a thread may be at it. */
static void step_noqueue(struct client *c)
{
	taskq_t *queue = c->queues[DYN];
	unsigned int i, busy = 0, tries;

	probe_jobs_make(c, queue);
	/* Threads that are idle stay as long as one is busy. */
	do
		probe_gate_close(c, busy++);
	while (busy < DYN_THREADS && !one_more_is_needed(queue));
	if (busy < DYN_THREADS) {
		for (tries = 0; tries < 50; tries++) {
			c->ids[busy] = taskq_dispatch(queue, probe_job_run, &c->jobs[busy], TQ_SLEEP | TQ_NOQUEUE);
			if (c->ids[busy])
				break;
			schedule_timeout_uninterruptible(1);
		}
		probe_keep(&probe_queue_promises[NOQUEUE], "TQ_NOQUEUE", c->ids[busy] != 0, 1);
		if (c->ids[busy])
			wait_event(probe_queues_wq, atomic_read(&c->jobs[busy].ran));
	}
	for (i = 0; i < busy; i++)
		probe_gate_open(c, i);
	taskq_wait(queue);
	probe_keep(&probe_queue_promises[WAIT], "TQ_NOQUEUE", ran(c, 0, busy), busy);
}

/* As many users do it: the entry is used anew while its task runs. */
static void run_entry(void *arg)
{
	struct job *job = arg;
	taskq_thread_t *thread;
	unsigned long flags;
	bool shown = false;

	/* What /proc/spl/taskq shows of threads that are busy. */
	spin_lock_irqsave(&job->queue->tq_lock, flags);
	list_for_each_entry(thread, &job->queue->tq_active_list, tqt_active_list)
		shown |= thread->tqt_task == &job->client->entry;
	spin_unlock_irqrestore(&job->queue->tq_lock, flags);
	probe_keep(&probe_queue_promises[SHOWN], "taskq_dispatch_ent", shown, 0);
	taskq_init_ent(&job->client->entry);
	probe_job_run(job);
}

static void step_entry(struct client *c)
{
	taskq_t *queue = c->queues[TWO];
	unsigned long flags;

	if (c->entry_is_lost)
		return;
	probe_jobs_make(c, queue);
	taskq_init_ent(&c->entry);
	taskq_dispatch_ent(queue, run_entry, &c->jobs[0], 0, &c->entry);
	taskq_wait(queue);
	probe_keep(&probe_queue_promises[WAIT], "taskq_dispatch_ent", atomic_read(&c->jobs[0].ran), 1);
	c->entry_is_lost = !taskq_empty_ent(&c->entry) || c->entry.tqent_flags || c->entry.tqent_id;
	probe_keep(&probe_queue_promises[ENTRY], "taskq_dispatch_ent", c->entry_is_lost, 0);
	/* SPL must not find it where it looks for its own. */
	spin_lock_irqsave(&queue->tq_lock, flags);
	list_del_init(&c->entry.tqent_list);
	spin_unlock_irqrestore(&queue->tq_lock, flags);
}

/* Whether this SPL is of a version or a later one. */
static bool is_since(unsigned int major, unsigned int minor)
{
	unsigned int own[2] = { 0 };

	return sscanf(ZFS_META_VERSION, "%u.%u", &own[0], &own[1]) == 2 &&
	       (own[0] > major || (own[0] == major && own[1] >= minor));
}

/* There are two entries for more tasks than that: who may sleep waits until one is free. */
static void step_room(struct client *c)
{
	unsigned int i;

	probe_jobs_make(c, c->queues[FEW]);
	for (i = 0; i < 4; i++) {
		unsigned int before = ran(c, 0, 4);
		unsigned long sleeps = current->nvcsw;

		probe_job_dispatch(c, i, run_nap, TQ_SLEEP);
		/* Both entries were taken: one has come free, or it was waited for. */
		if (i >= 2 && before == i - 2 && is_since(2, 3))
			probe_keep(&probe_queue_promises[ROOM_SLEEPS], "full", current->nvcsw > sleeps || ran(c, 0, 4) > before, 1);
	}
	taskq_wait(c->queues[FEW]);
	probe_keep(&probe_queue_promises[WAIT], "full", ran(c, 0, 4), 4);
	probe_gate_close(c, 4);
	probe_job_dispatch(c, 5, probe_job_run, TQ_SLEEP);
	probe_keep(&probe_queue_promises[ROOM], "TQ_NOSLEEP", probe_job_dispatch(c, 6, probe_job_run, TQ_NOSLEEP) != 0, 0);
	probe_gate_open(c, 4);
	taskq_wait(c->queues[FEW]);
}

static void run_hurry(void *arg)
{
	struct client *c = arg;

	WRITE_ONCE(c->hurried, c->hurried + 1);
}

/*
 * One task after the other, each just when the thread has done the last one and goes to
 * sleep. A wake-up that gets lost there leaves it asleep: the client waits for ever.
 */
static void step_hurry(struct client *c)
{
	u64 until = ktime_get_ns() + HURRY_NS, done = c->hurried;
	u32 random = get_random_u32();
	taskqid_t id;

	probe_linger(true);
	do {
		u64 wanted = ++done, spin = ktime_get_ns() + SPIN_NS;

		id = taskq_dispatch(c->queues[ONE], run_hurry, c, TQ_SLEEP);
		probe_keep(&probe_queue_promises[DISPATCHED], "hurry", id != 0, 1);
		if (!id) {
			done--;
			break;
		}
		while (READ_ONCE(c->hurried) != wanted && ktime_get_ns() < spin)
			cpu_relax();
		if (READ_ONCE(c->hurried) != wanted) {
			taskq_wait_id(c->queues[ONE], id);
			probe_keep(&probe_queue_promises[WAIT_ID], "hurry", READ_ONCE(c->hurried), wanted);
			if (READ_ONCE(c->hurried) != wanted)
				break;
		}
		/* From nothing to some tens of us, as long as threads of a guest take for it. */
		random = random * 1664525 + 1013904223;
		ndelay((random >> 8) % (1000U << (random >> 29)));
		cond_resched();
	} while (ktime_get_ns() < until);
	probe_linger(false);
	/* No task runs into the next step. */
	taskq_wait(c->queues[ONE]);
	probe_keep(&probe_queue_promises[WAIT], "hurry", READ_ONCE(c->hurried), done);
}

/* The next one, from a CPU on. */
static unsigned int cpu_after(unsigned int cpu)
{
	cpu = cpumask_next(cpu, cpu_online_mask);
	return cpu < nr_cpu_ids ? cpu : cpumask_first(cpu_online_mask);
}

/* Linux since 6.9 has timers of a CPU that idles go off on another one. */
static void run_busy(void *arg)
{
	struct client *c = arg;
	u64 until = ktime_get_ns() + 50 * NSEC_PER_MSEC;

	while (READ_ONCE(c->busy) && ktime_get_ns() < until)
		cond_resched();
}

/*
 * A delayed task is cancelled on one CPU just when its timer goes off on another one.
 * Before 2.4 that is a crash (OpenZFS 36e4f18883), so it is not asked there.
 */
static void step_expire(struct client *c)
{
	unsigned int i;

	if (!is_since(2, 4))
		return;
	probe_linger(true);
	for (i = 0; i < NR_EXPIRIES; i++) {
		unsigned int cpu = raw_smp_processor_id();
		u64 spin = ktime_get_ns() + 20 * NSEC_PER_MSEC;
		unsigned long due;
		int said;

		probe_jobs_make(c, c->queues[TWO]);
		set_cpus_allowed_ptr(current, cpumask_of(cpu));
		due = jiffies + 3;
		c->ids[0] = taskq_dispatch_delay(c->queues[TWO], probe_job_run, &c->jobs[0], TQ_SLEEP, due);
		set_cpus_allowed_ptr(current, cpumask_of(cpu_after(cpu)));
		WRITE_ONCE(c->busy, true);
		(void) taskq_dispatch(c->queues[ONE], run_busy, c, TQ_SLEEP);
		while (time_before(READ_ONCE(jiffies), due) && ktime_get_ns() < spin)
			cpu_relax();
		ndelay(get_random_u32() % (64U << (get_random_u32() % 11)));
		said = probe_queue_cancel(c->queues[TWO], c->ids[0]);
		WRITE_ONCE(c->busy, false);
		taskq_wait(c->queues[TWO]);
		if (said)
			probe_keep(&probe_queue_promises[WAIT], "taskq_cancel_id", atomic_read(&c->jobs[0].ran), 1);
		else
			probe_keep(&probe_queue_promises[CANCELLED], "due", atomic_read(&c->jobs[0].ran), 0);
	}
	probe_linger(false);
	set_cpus_allowed_ptr(current, cpu_possible_mask);
	taskq_wait(c->queues[ONE]);
}

/* As a function that the end of I/O calls. */
static void step_irqs(struct client *c)
{
	unsigned long flags;
	bool are_off[2];

	probe_jobs_make(c, c->queues[TWO]);
	local_irq_save(flags);
	probe_job_dispatch(c, 0, probe_job_run, TQ_NOSLEEP);
	are_off[0] = irqs_disabled();
	local_irq_restore(flags);
	local_irq_save(flags);
	if (c->ids[0])
		cancel_nothing(c);
	are_off[1] = irqs_disabled();
	local_irq_restore(flags);
	taskq_wait(c->queues[TWO]);
	probe_keep(&probe_queue_promises[INTERRUPTS], "taskq_dispatch", are_off[0], 1);
	probe_keep(&probe_queue_promises[INTERRUPTS], "taskq_cancel_id", are_off[1], 1);
	probe_keep(&probe_queue_promises[WAIT], "taskq_dispatch", ran(c, 0, 1), c->jobs[0].due);
}

static void step_member(struct client *c)
{
	probe_keep(&probe_queue_promises[MEMBER], "outside", taskq_member(c->queues[ONE], current), 0);
}

static void run_last(void *arg)
{
	struct job *job = arg;

	get_task_struct(current);
	job->client->worker = current;
	run_nap(job);
}

/* taskq_thread() tells taskq_destroy() that it goes, then forgets its taskq, then exits. It is given a second. */
static bool is_exiting(struct task_struct *task)
{
	unsigned int i;

	for (i = 0; i < HZ && !(READ_ONCE(task->flags) & PF_EXITING); i++)
		schedule_timeout_uninterruptible(1);
	return READ_ONCE(task->flags) & PF_EXITING;
}

/* A thread may just be made for it when it goes. */
static void step_life(struct client *c)
{
	taskq_t *queue = taskq_create(PROBE_NAME "_temp", DYN_THREADS, minclsyspri, 2, 100,
				      TASKQ_PREPOPULATE | TASKQ_DYNAMIC);
	unsigned int i;

	probe_keep(&probe_queue_promises[DISPATCHED], "taskq_create", queue != NULL, 1);
	if (!queue)
		return;
	probe_jobs_make(c, queue);
	for (i = 0; i < 4; i++)
		probe_job_dispatch(c, i, i ? probe_job_run : run_last, TQ_SLEEP);
	taskq_destroy(queue);
	probe_keep(&probe_queue_promises[DESTROY], "taskq_destroy", ran(c, 0, 4), 4);
	if (c->worker) {
		if (is_exiting(c->worker))
			probe_keep(&probe_queue_promises[MEMBER], "after-its-end", taskq_member(queue, c->worker), 0);
		put_task_struct(c->worker);
		c->worker = NULL;
	}
	queue = taskq_create(PROBE_NAME "_temp", DYN_THREADS, minclsyspri, 2, 100, TASKQ_DYNAMIC);
	if (!queue)
		return;
	probe_jobs_make(c, queue);
	probe_gate_close(c, 0);
	/* All threads are busy, so this one has another made. */
	probe_job_dispatch(c, 1, probe_job_run, TQ_SLEEP);
	probe_gate_open(c, 0);
	taskq_destroy(queue);
	probe_keep(&probe_queue_promises[DESTROY], "taskq_destroy", ran(c, 0, 2), 2);
}

const struct queue_step probe_queue_steps[] = {
	{ "wait", step_wait },
	{ "wait_id", step_wait_id },
	{ "wait_outstanding", step_outstanding },
	{ "wait_empty", step_wait_empty },
	{ "order", step_order },
	{ "delay", step_delay },
	{ "cancel", step_cancel },
	{ "nested", step_nested },
	{ "noqueue", step_noqueue },
	{ "entry", step_entry },
	{ "room", step_room },
	{ "member", step_member },
	{ "hurry", step_hurry },
	{ "irqs", step_irqs },
	{ "expire", step_expire },
	{ "create_destroy", step_life },
	{ NULL, NULL },
};
