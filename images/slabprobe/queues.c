// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Taskqs, as users of SPL have them: two clients, each with four queues of its
 * own, dispatch, delay, cancel and wait, and ask after each step for what SPL
 * promises. Each round also makes a queue and destroys it.
 *
 * A client that waits for ever is told by the step in which it is, and since when.
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

#include "slabprobe.h"
#include "work.h"

#define NR_CLIENTS	2
#define NR_JOBS		8
#define CHAIN		48	/* tasks, each of which dispatches the next one */
#define DEPTH		3	/* tasks that wait for the task that they dispatch */
#define DYN_THREADS	(DEPTH + 1)
#define FAR_AWAY	(600 * HZ)
#define HURRY_NS	(20 * NSEC_PER_MSEC)	/* of each round are for tasks that follow each other closely */
#define NR_EXPIRIES	3
#define SPIN_NS		(500 * NSEC_PER_USEC)	/* at most for one of these, before it is slept for */

enum kind { ONE, TWO, DYN, FEW, NR_KINDS };

/* What each client makes of each kind. With one entry for all of FEW more tasks than that have to wait for room. */
static const struct {
	const char *name;
	int threads, min, max;
	unsigned int flags;
	pri_t priority;
} kinds[NR_KINDS] = {
	[ONE] = { PROBE_NAME "_one", 1, 8, 1000, TASKQ_PREPOPULATE, minclsyspri },
	[TWO] = { PROBE_NAME "_two", 2, 16, 1000, TASKQ_PREPOPULATE, defclsyspri },
	[DYN] = { PROBE_NAME "_dyn", DYN_THREADS, 4, 1000, TASKQ_PREPOPULATE | TASKQ_DYNAMIC, minclsyspri },
	[FEW] = { PROBE_NAME "_few", 1, 1, 2, TASKQ_PREPOPULATE, maxclsyspri },
};

enum {
	DISPATCHED, RAN_ONCE, WAIT, WAIT_EMPTY, WAIT_ID, OUTSTANDING, OUTSTANDING_ENDS, ORDER, DELAY, CANCEL,
	CANCELLED, NOQUEUE, ENTRY, SHOWN, MEMBER, JOURNAL, PRIORITY, ROOM, ROOM_SLEEPS, DESTROY, INTERRUPTS, AS_MADE,
	COUNTED, NR_PROMISES,
};

static struct probe_promise promises[NR_PROMISES] = {
	[DISPATCHED] = { "dispatched" },	/* TQ_SLEEP does not fail */
	[RAN_ONCE] = { "ran-once" },
	[WAIT] = { "wait" },			/* all that was dispatched before has run */
	[WAIT_EMPTY] = { "wait-empty" },	/* and what these dispatched */
	[WAIT_ID] = { "wait-id" },
	[OUTSTANDING] = { "outstanding" },	/* what was dispatched before has run */
	[OUTSTANDING_ENDS] = { "outstanding-ends" },	/* without what is dispatched later */
	[ORDER] = { "order" },			/* of one thread: TQ_FRONT first, the others as they came */
	[DELAY] = { "delay" },			/* not before its time */
	[CANCEL] = { "cancel" },		/* 0, EBUSY or ENOENT */
	[CANCELLED] = { "cancelled" },		/* what was cancelled does not run */
	[NOQUEUE] = { "noqueue" },		/* accepted if a thread is idle, or one more may be made */
	[ENTRY] = { "entry" },			/* of the caller's own: SPL forgets it before the task runs */
	[SHOWN] = { "shown" },			/* nor does /proc/spl/taskq look at it then */
	[MEMBER] = { "member" },
	[JOURNAL] = { "journal" },		/* journal_info is left to filesystems */
	[PRIORITY] = { "priority" },		/* threads have that of their taskq */
	[ROOM] = { "room" },			/* TQ_NOSLEEP fails where there is no entry */
	[ROOM_SLEEPS] = { "room-sleeps" },	/* who waits for an entry leaves the CPU to others */
	[DESTROY] = { "destroy" },		/* all that was dispatched has run */
	[INTERRUPTS] = { "irqs-off" },		/* where they were off before a dispatch */
	[AS_MADE] = { "as-made" },		/* priority, entries and flags */
	[COUNTED] = { "counted" },		/* kstats of a taskq at rest */
};

struct client;

struct job {
	struct client *client;
	taskq_t *queue;
	atomic_t ran;
	unsigned int place;	/* among those that ran, from 1 */
	unsigned long when;	/* jiffies */
	bool running, open;
	bool due;		/* it was dispatched, and not cancelled */
};

struct client {
	struct probe_hand hand;
	u64 rounds;
	const char *step;	/* NULL: between two */
	u64 since_ns;
	taskq_t *queues[NR_KINDS];
	char names[NR_KINDS][TASKQ_NAMELEN];
	struct job jobs[NR_JOBS];
	taskqid_t ids[NR_JOBS], delayed[2];
	atomic_t order, links, chained;
	bool chain_ends;
	taskq_ent_t entry;
	bool entry_is_lost;
	struct task_struct *worker;	/* that ran a task of a taskq that is gone */
	bool busy;			/* a task of its keeps a CPU from going idle */
	u64 hurried;			/* how often a task has run that follows another one closely */
	/* At rest: what each queue has to show. */
	unsigned int running[NR_KINDS], pending[NR_KINDS], front[NR_KINDS], later[NR_KINDS];
};

static struct client clients[NR_CLIENTS];
static enum probe_work wish = PROBE_WORK_NONE;
static DECLARE_WAIT_QUEUE_HEAD(queues_wq);
static DEFINE_SPINLOCK(queues_lock);	/* of the pointers to queues that are shown */

static void begin(struct client *c, const char *step)
{
	WRITE_ONCE(c->since_ns, ktime_get_ns());
	smp_store_release(&c->step, step);
}

static void end(struct client *c)
{
	smp_store_release(&c->step, NULL);
}

static int cancel(taskq_t *queue, taskqid_t id)
{
	/* Newer ones ask whether to wait; if there is no third argument, nobody looks into its register. */
	int (*cancel_id)(taskq_t *, taskqid_t, int) = (void *)&taskq_cancel_id;

	return cancel_id(queue, id, 1);
}

/* Of a task that never was: nothing is found, and nobody waits. */
static void cancel_nothing(struct client *c)
{
	(void) cancel(c->queues[TWO], ULONG_MAX);
}

static void make_job(struct client *c, unsigned int i, taskq_t *queue)
{
	c->jobs[i] = (struct job) { .client = c, .queue = queue };
}

/* Where a wait came back too early, tasks may still be on their way to what is used anew. */
static void make_jobs(struct client *c, taskq_t *queue)
{
	unsigned int i;

	for (i = 0; i < NR_JOBS; i++)
		if (c->jobs[i].due)
			wait_event_timeout(queues_wq, atomic_read(&c->jobs[i].ran), HZ);
	atomic_set(&c->order, 0);
	for (i = 0; i < NR_JOBS; i++)
		make_job(c, i, queue);
}

static void ask_inside(struct job *job)
{
	probe_keep(&promises[MEMBER], "task", taskq_member(job->queue, current), 1);
	probe_keep(&promises[JOURNAL], "task", current->journal_info != NULL, 0);
	probe_keep(&promises[PRIORITY], "taskq", task_nice(current), PRIO_TO_NICE(job->queue->tq_pri));
}

static void run_job(void *arg)
{
	struct job *job = arg;

	ask_inside(job);
	job->place = atomic_inc_return(&job->client->order);
	job->when = jiffies;
	atomic_inc(&job->ran);
	wake_up_all(&queues_wq);
}

static void run_nap(void *arg)
{
	schedule_timeout_uninterruptible(1);
	run_job(arg);
}

static void run_gate(void *arg)
{
	struct job *job = arg;

	WRITE_ONCE(job->running, true);
	wake_up_all(&queues_wq);
	wait_event(queues_wq, READ_ONCE(job->open));
	run_job(arg);
}

static taskqid_t dispatch(struct client *c, unsigned int i, task_func_t func, unsigned int flags)
{
	taskqid_t id = taskq_dispatch(c->jobs[i].queue, func, &c->jobs[i], flags);

	c->jobs[i].due = id != 0;
	if (!(flags & TQ_NOSLEEP))
		probe_keep(&promises[DISPATCHED], c->step, id != 0, 1);
	c->ids[i] = id;
	return id;
}

static void close_gate(struct client *c, unsigned int i)
{
	if (dispatch(c, i, run_gate, TQ_SLEEP))
		wait_event(queues_wq, READ_ONCE(c->jobs[i].running));
}

static void open_gate(struct client *c, unsigned int i)
{
	WRITE_ONCE(c->jobs[i].open, true);
	wake_up_all(&queues_wq);
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

	make_jobs(c, c->queues[TWO]);
	for (i = 0; i < 6; i++)
		times += dispatch(c, i, i % 2 ? run_nap : run_job, i == 3 ? TQ_FRONT : i == 4 ? TQ_PUSHPAGE : TQ_SLEEP) != 0;
	taskq_wait(c->queues[TWO]);
	probe_keep(&promises[WAIT], "taskq_wait", ran(c, 0, 6), times);
	for (i = 0; i < 6; i++)
		if (c->ids[i])
			probe_keep(&promises[RAN_ONCE], "taskq_wait", atomic_read(&c->jobs[i].ran), 1);
}

static void step_wait_id(struct client *c)
{
	unsigned int i;

	make_jobs(c, c->queues[ONE]);
	for (i = 0; i < 4; i++)
		dispatch(c, i, i % 2 ? run_job : run_nap, TQ_SLEEP);
	taskq_wait_id(c->queues[ONE], c->ids[1]);
	probe_keep(&promises[WAIT_ID], "taskq_wait_id", atomic_read(&c->jobs[1].ran), 1);
	taskq_wait_id(c->queues[ONE], c->ids[3]);
	probe_keep(&promises[WAIT_ID], "taskq_wait_id", ran(c, 0, 4), 4);
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
	probe_keep(&promises[DISPATCHED], c->step, taskq_dispatch(c->queues[ONE], run_link, c, TQ_SLEEP) != 0, 1);
}

static void step_outstanding(struct client *c)
{
	make_jobs(c, c->queues[ONE]);
	dispatch(c, 0, run_nap, TQ_SLEEP);
	begin_chain(c, CHAIN);
	taskq_wait_outstanding(c->queues[ONE], 0);
	probe_keep(&promises[OUTSTANDING], "taskq_wait_outstanding", atomic_read(&c->jobs[0].ran), 1);
	probe_keep(&promises[OUTSTANDING_ENDS], "taskq_wait_outstanding", atomic_read(&c->chained) >= CHAIN, 0);
	WRITE_ONCE(c->chain_ends, true);
	taskq_wait(c->queues[ONE]);
}

static void step_wait_empty(struct client *c)
{
	begin_chain(c, 4);
	taskq_wait(c->queues[ONE]);
	probe_keep(&promises[WAIT_EMPTY], "taskq_wait", atomic_read(&c->chained), 4);
}

static void step_order(struct client *c)
{
	static const unsigned int wanted[] = { 1, 4, 5, 2, 3 };
	unsigned int i;

	make_jobs(c, c->queues[ONE]);
	close_gate(c, 0);
	dispatch(c, 1, run_job, TQ_SLEEP);
	dispatch(c, 2, run_job, TQ_SLEEP);
	dispatch(c, 3, run_job, TQ_FRONT);
	dispatch(c, 4, run_job, TQ_FRONT);
	open_gate(c, 0);
	taskq_wait(c->queues[ONE]);
	for (i = 0; i < ARRAY_SIZE(wanted); i++)
		probe_keep(&promises[ORDER], i > 2 ? "TQ_FRONT" : "TQ_SLEEP", c->jobs[i].place, wanted[i]);
}

static void step_delay(struct client *c)
{
	unsigned long due = jiffies + 3;

	make_jobs(c, c->queues[TWO]);
	c->ids[0] = taskq_dispatch_delay(c->queues[TWO], run_job, &c->jobs[0], TQ_SLEEP, due);
	probe_keep(&promises[DISPATCHED], "taskq_dispatch_delay", c->ids[0] != 0, 1);
	taskq_wait_id(c->queues[TWO], c->ids[0]);
	probe_keep(&promises[WAIT_ID], "taskq_dispatch_delay", atomic_read(&c->jobs[0].ran), 1);
	probe_keep(&promises[DELAY], "taskq_dispatch_delay", time_before(c->jobs[0].when, due), 0);
}

static void step_cancel(struct client *c)
{
	taskq_t *queue = c->queues[ONE];

	make_jobs(c, queue);
	close_gate(c, 0);
	dispatch(c, 1, run_job, TQ_SLEEP);
	dispatch(c, 2, run_job, TQ_FRONT);
	dispatch(c, 3, run_job, TQ_SLEEP);
	/* Long before its time: who is cancelled just then, or has its timer go off, is a race of its own. */
	c->ids[4] = taskq_dispatch_delay(queue, run_job, &c->jobs[4], TQ_SLEEP, jiffies + FAR_AWAY);
	probe_keep(&promises[CANCEL], "pending", cancel(queue, c->ids[1]), 0);
	probe_keep(&promises[CANCEL], "front", cancel(queue, c->ids[2]), 0);
	probe_keep(&promises[CANCEL], "delayed", cancel(queue, c->ids[4]), 0);
	c->jobs[1].due = c->jobs[2].due = false;
	open_gate(c, 0);
	taskq_wait(queue);
	probe_keep(&promises[CANCELLED], "pending", atomic_read(&c->jobs[1].ran), 0);
	probe_keep(&promises[CANCELLED], "front", atomic_read(&c->jobs[2].ran), 0);
	probe_keep(&promises[CANCELLED], "delayed", atomic_read(&c->jobs[4].ran), 0);
	probe_keep(&promises[WAIT], "taskq_cancel_id", ran(c, 0, 5), 2);
	probe_keep(&promises[CANCEL], "done", cancel(queue, c->ids[3]), ENOENT);
	dispatch(c, 5, run_nap, TQ_SLEEP);
	/* It runs, or it does not yet. */
	c->jobs[5].due = cancel(queue, c->ids[5]) != 0;
	if (!c->jobs[5].due)
		probe_keep(&promises[CANCELLED], "at-once", atomic_read(&c->jobs[5].ran), 0);
	else
		probe_keep(&promises[WAIT_ID], "taskq_cancel_id", atomic_read(&c->jobs[5].ran), 1);
}

static void run_nested(void *arg)
{
	struct job *job = arg, *below = job + 1;
	taskqid_t id;

	if (job - job->client->jobs < DEPTH) {
		id = taskq_dispatch(job->queue, run_nested, below, TQ_SLEEP);
		probe_keep(&promises[DISPATCHED], "nested", id != 0, 1);
		if (id)
			taskq_wait_id(job->queue, id);
	}
	run_job(job);
}

/* Each level takes a thread for itself, and there may be as many as there are levels. */
static void step_nested(struct client *c)
{
	make_jobs(c, c->queues[DYN]);
	if (dispatch(c, 0, run_nested, TQ_SLEEP))
		taskq_wait_id(c->queues[DYN], c->ids[0]);
	probe_keep(&promises[WAIT_ID], "nested", ran(c, 0, NR_JOBS), DEPTH + 1);
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

	make_jobs(c, queue);
	/* Threads that are idle stay as long as one is busy. */
	do
		close_gate(c, busy++);
	while (busy < DYN_THREADS && !one_more_is_needed(queue));
	if (busy < DYN_THREADS) {
		for (tries = 0; tries < 50; tries++) {
			c->ids[busy] = taskq_dispatch(queue, run_job, &c->jobs[busy], TQ_SLEEP | TQ_NOQUEUE);
			if (c->ids[busy])
				break;
			schedule_timeout_uninterruptible(1);
		}
		probe_keep(&promises[NOQUEUE], "TQ_NOQUEUE", c->ids[busy] != 0, 1);
		if (c->ids[busy])
			wait_event(queues_wq, atomic_read(&c->jobs[busy].ran));
	}
	for (i = 0; i < busy; i++)
		open_gate(c, i);
	taskq_wait(queue);
	probe_keep(&promises[WAIT], "TQ_NOQUEUE", ran(c, 0, busy), busy);
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
	probe_keep(&promises[SHOWN], "taskq_dispatch_ent", shown, 0);
	taskq_init_ent(&job->client->entry);
	run_job(job);
}

static void step_entry(struct client *c)
{
	taskq_t *queue = c->queues[TWO];
	unsigned long flags;

	if (c->entry_is_lost)
		return;
	make_jobs(c, queue);
	taskq_init_ent(&c->entry);
	taskq_dispatch_ent(queue, run_entry, &c->jobs[0], 0, &c->entry);
	taskq_wait(queue);
	probe_keep(&promises[WAIT], "taskq_dispatch_ent", atomic_read(&c->jobs[0].ran), 1);
	c->entry_is_lost = !taskq_empty_ent(&c->entry) || c->entry.tqent_flags || c->entry.tqent_id;
	probe_keep(&promises[ENTRY], "taskq_dispatch_ent", c->entry_is_lost, 0);
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

	make_jobs(c, c->queues[FEW]);
	for (i = 0; i < 4; i++) {
		unsigned int before = ran(c, 0, 4);
		unsigned long sleeps = current->nvcsw;

		dispatch(c, i, run_nap, TQ_SLEEP);
		/* Both entries were taken: one has come free, or it was waited for. */
		if (i >= 2 && before == i - 2 && is_since(2, 3))
			probe_keep(&promises[ROOM_SLEEPS], "full", current->nvcsw > sleeps || ran(c, 0, 4) > before, 1);
	}
	taskq_wait(c->queues[FEW]);
	probe_keep(&promises[WAIT], "full", ran(c, 0, 4), 4);
	close_gate(c, 4);
	dispatch(c, 5, run_job, TQ_SLEEP);
	probe_keep(&promises[ROOM], "TQ_NOSLEEP", dispatch(c, 6, run_job, TQ_NOSLEEP) != 0, 0);
	open_gate(c, 4);
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
		probe_keep(&promises[DISPATCHED], "hurry", id != 0, 1);
		if (!id) {
			done--;
			break;
		}
		while (READ_ONCE(c->hurried) != wanted && ktime_get_ns() < spin)
			cpu_relax();
		if (READ_ONCE(c->hurried) != wanted) {
			taskq_wait_id(c->queues[ONE], id);
			probe_keep(&promises[WAIT_ID], "hurry", READ_ONCE(c->hurried), wanted);
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
	probe_keep(&promises[WAIT], "hurry", READ_ONCE(c->hurried), done);
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

		make_jobs(c, c->queues[TWO]);
		set_cpus_allowed_ptr(current, cpumask_of(cpu));
		due = jiffies + 3;
		c->ids[0] = taskq_dispatch_delay(c->queues[TWO], run_job, &c->jobs[0], TQ_SLEEP, due);
		set_cpus_allowed_ptr(current, cpumask_of(cpu_after(cpu)));
		WRITE_ONCE(c->busy, true);
		(void) taskq_dispatch(c->queues[ONE], run_busy, c, TQ_SLEEP);
		while (time_before(READ_ONCE(jiffies), due) && ktime_get_ns() < spin)
			cpu_relax();
		ndelay(get_random_u32() % (64U << (get_random_u32() % 11)));
		said = cancel(c->queues[TWO], c->ids[0]);
		WRITE_ONCE(c->busy, false);
		taskq_wait(c->queues[TWO]);
		if (said)
			probe_keep(&promises[WAIT], "taskq_cancel_id", atomic_read(&c->jobs[0].ran), 1);
		else
			probe_keep(&promises[CANCELLED], "due", atomic_read(&c->jobs[0].ran), 0);
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

	make_jobs(c, c->queues[TWO]);
	local_irq_save(flags);
	dispatch(c, 0, run_job, TQ_NOSLEEP);
	are_off[0] = irqs_disabled();
	local_irq_restore(flags);
	local_irq_save(flags);
	if (c->ids[0])
		cancel_nothing(c);
	are_off[1] = irqs_disabled();
	local_irq_restore(flags);
	taskq_wait(c->queues[TWO]);
	probe_keep(&promises[INTERRUPTS], "taskq_dispatch", are_off[0], 1);
	probe_keep(&promises[INTERRUPTS], "taskq_cancel_id", are_off[1], 1);
	probe_keep(&promises[WAIT], "taskq_dispatch", ran(c, 0, 1), c->jobs[0].due);
}

static void step_member(struct client *c)
{
	probe_keep(&promises[MEMBER], "outside", taskq_member(c->queues[ONE], current), 0);
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

	probe_keep(&promises[DISPATCHED], "taskq_create", queue != NULL, 1);
	if (!queue)
		return;
	make_jobs(c, queue);
	for (i = 0; i < 4; i++)
		dispatch(c, i, i ? run_job : run_last, TQ_SLEEP);
	taskq_destroy(queue);
	probe_keep(&promises[DESTROY], "taskq_destroy", ran(c, 0, 4), 4);
	if (c->worker) {
		if (is_exiting(c->worker))
			probe_keep(&promises[MEMBER], "after-its-end", taskq_member(queue, c->worker), 0);
		put_task_struct(c->worker);
		c->worker = NULL;
	}
	queue = taskq_create(PROBE_NAME "_temp", DYN_THREADS, minclsyspri, 2, 100, TASKQ_DYNAMIC);
	if (!queue)
		return;
	make_jobs(c, queue);
	close_gate(c, 0);
	/* All threads are busy, so this one has another made. */
	dispatch(c, 1, run_job, TQ_SLEEP);
	open_gate(c, 0);
	taskq_destroy(queue);
	probe_keep(&promises[DESTROY], "taskq_destroy", ran(c, 0, 2), 2);
}

static const struct {
	const char *name;
	void (*take)(struct client *c);
} steps[] = {
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
};

static bool make_queues(struct client *c)
{
	unsigned int i;

	for (i = 0; i < NR_KINDS; i++) {
		taskq_t *queue;

		snprintf(c->names[i], sizeof(c->names[i]), "%s%u", kinds[i].name, c->hand.id);
		queue = taskq_create(c->names[i], kinds[i].threads, kinds[i].priority, kinds[i].min, kinds[i].max,
				     kinds[i].flags);
		spin_lock(&queues_lock);
		c->queues[i] = queue;
		spin_unlock(&queues_lock);
		if (!queue)
			return false;
		probe_keep(&promises[AS_MADE], "priority", queue->tq_pri, kinds[i].priority);
		probe_keep(&promises[AS_MADE], "mina", queue->tq_minalloc, kinds[i].min);
		probe_keep(&promises[AS_MADE], "maxa", queue->tq_maxalloc, kinds[i].max);
		probe_keep(&promises[AS_MADE], "flags", queue->tq_flags, kinds[i].flags | TASKQ_ACTIVE);
	}
	return true;
}

static void destroy_queues(struct client *c)
{
	unsigned int i;

	for (i = 0; i < NR_KINDS; i++) {
		taskq_t *queue = c->queues[i];

		spin_lock(&queues_lock);
		c->queues[i] = NULL;
		spin_unlock(&queues_lock);
		if (queue)
			taskq_destroy(queue);
	}
}

/* A known number of tasks in each list of each queue. */
static void load_queues(struct client *c)
{
	unsigned int i;

	make_jobs(c, c->queues[ONE]);
	close_gate(c, 0);
	dispatch(c, 1, run_job, TQ_SLEEP);
	dispatch(c, 2, run_job, TQ_FRONT);
	for (i = 0; i < ARRAY_SIZE(c->delayed); i++)
		c->delayed[i] = taskq_dispatch_delay(c->queues[ONE], run_job, &c->jobs[3], TQ_SLEEP,
						     jiffies + FAR_AWAY);
	make_job(c, 4, c->queues[TWO]);
	make_job(c, 5, c->queues[TWO]);
	close_gate(c, 4);
	close_gate(c, 5);
	make_job(c, 6, c->queues[DYN]);
	make_job(c, 7, c->queues[DYN]);
	close_gate(c, 6);
	close_gate(c, 7);
	c->running[ONE] = c->pending[ONE] = c->front[ONE] = 1;
	c->later[ONE] = ARRAY_SIZE(c->delayed);
	c->running[TWO] = c->running[DYN] = 2;
}

static void empty_queues(struct client *c)
{
	static const unsigned int gates[] = { 0, 4, 5, 6, 7 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(c->delayed); i++)
		cancel(c->queues[ONE], c->delayed[i]);
	for (i = 0; i < ARRAY_SIZE(gates); i++)
		open_gate(c, gates[i]);
	for (i = 0; i < NR_KINDS; i++)
		taskq_wait(c->queues[i]);
	memset(c->running, 0, sizeof(c->running));
	memset(c->pending, 0, sizeof(c->pending));
	memset(c->front, 0, sizeof(c->front));
	memset(c->later, 0, sizeof(c->later));
}

static void take_steps(struct client *c)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps) && READ_ONCE(wish) == PROBE_WORK_RUNNING; i++) {
		/* Each begins with another one, so that they do not go in step. */
		unsigned int which = (i + c->hand.id * 5) % ARRAY_SIZE(steps);

		begin(c, steps[which].name);
		steps[which].take(c);
		end(c);
		cond_resched();
	}
	WRITE_ONCE(c->rounds, c->rounds + 1);
	schedule_timeout_uninterruptible(1);
}

/* What kstats of a taskq say where it is known, since 2.3. */
static void look_at_counters(struct client *c)
{
#ifdef SPL_TASKQ_SUMS
	unsigned int i;

	for (i = 0; i < NR_KINDS; i++) {
		taskq_sums_t *sums = &c->queues[i]->tq_sums;
		const char *at = kinds[i].name;

		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_threads_active), c->running[i]);
		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_pending), c->pending[i]);
		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_priority), c->front[i]);
		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_delayed), c->later[i]);
		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_total),
			   c->pending[i] + c->front[i] + c->later[i]);
		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_executed),
			   wmsum_value(&sums->tqs_tasks_executed_normal) + wmsum_value(&sums->tqs_tasks_executed_priority));
		probe_keep(&promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_dispatched) +
			   wmsum_value(&sums->tqs_tasks_dispatched_delayed),
			   wmsum_value(&sums->tqs_tasks_executed) + wmsum_value(&sums->tqs_tasks_cancelled) +
			   wmsum_value(&sums->tqs_tasks_total) + c->running[i]);
	}
#endif
}

/* One state after the other; a step that never ends keeps it where it is. */
static void go_on(struct client *c)
{
	switch (c->hand.reached) {
	case PROBE_WORK_NONE:
		begin(c, "create");
		if (!make_queues(c))
			probe_keep(&promises[DISPATCHED], "taskq_create", 0, 1);
		break;
	case PROBE_WORK_RUNNING:
		begin(c, "load");
		load_queues(c);
		look_at_counters(c);
		break;
	case PROBE_WORK_LOADED:
		begin(c, "empty");
		empty_queues(c);
		look_at_counters(c);
		break;
	default:
		begin(c, "destroy");
		destroy_queues(c);
	}
	end(c);
	smp_store_release(&c->hand.reached, c->hand.reached + 1);
}

static int client_thread(void *data)
{
	struct client *c = data;

	while (!kthread_should_stop()) {
		if (c->hand.reached < READ_ONCE(wish))
			go_on(c);
		else if (c->hand.reached == PROBE_WORK_RUNNING)
			take_steps(c);
		else
			schedule_timeout_idle(HZ / 50 + 1);
	}
	return 0;
}

int probe_queues_want(enum probe_work state)
{
	unsigned int i;
	int err = 0;

	if (state <= wish)
		return -EINVAL;
	if (wish == PROBE_WORK_NONE)
		probe_linger_init();
	WRITE_ONCE(wish, state);
	for (i = 0; i < NR_CLIENTS && !err; i++)
		err = probe_hand_start(&clients[i].hand, client_thread, &clients[i], 'q', i);
	return err;
}

void probe_queues_exit(void)
{
	unsigned int i;

	WRITE_ONCE(wish, PROBE_WORK_GONE);
	for (i = 0; i < NR_CLIENTS; i++)
		probe_hand_stop(&clients[i].hand);
	probe_linger_exit();
}

static unsigned int length(const struct list_head *list)
{
	const struct list_head *at;
	unsigned int sum = 0;

	list_for_each(at, list)
		sum++;
	return sum;
}

/* What is to be there, and behind it what SPL has. */
static void show_queue(struct seq_file *m, struct client *c, unsigned int i)
{
	taskq_t *queue = c->queues[i];
	unsigned long flags;

	if (!queue)
		return;
	seq_printf(m, "queue %s running=%u pending=%u front=%u delayed=%u threads=%d dynamic=%d min=%d", c->names[i],
		   c->running[i], c->pending[i], c->front[i], c->later[i], kinds[i].threads,
		   !!(kinds[i].flags & TASKQ_DYNAMIC), kinds[i].min);
	spin_lock_irqsave(&queue->tq_lock, flags);
	seq_printf(m, " act=%d nthr=%d spwn=%d maxt=%d cura=%d active=%u pend=%u prio=%u delay=%u\n",
		   queue->tq_nactive, queue->tq_nthreads, queue->tq_nspawn, queue->tq_maxthreads,
		   queue->tq_nalloc, length(&queue->tq_active_list), length(&queue->tq_pend_list),
		   length(&queue->tq_prio_list), length(&queue->tq_delay_list));
	spin_unlock_irqrestore(&queue->tq_lock, flags);
}

void probe_queues_show(struct seq_file *m)
{
	unsigned int i, k;

	if (wish == PROBE_WORK_NONE)
		return;
	for (i = 0; i < NR_CLIENTS; i++) {
		struct client *c = &clients[i];
		const char *step = smp_load_acquire(&c->step);

		seq_printf(m, "client %u pid=%d state=%s rounds=%llu step=%s since_ns=%llu\n", i,
			   c->hand.task ? task_pid_nr(c->hand.task) : 0, probe_work_name(smp_load_acquire(&c->hand.reached)),
			   READ_ONCE(c->rounds), step ? step : "-", step ? READ_ONCE(c->since_ns) : 0);
		spin_lock(&queues_lock);
		for (k = 0; k < NR_KINDS; k++)
			show_queue(m, c, k);
		spin_unlock(&queues_lock);
	}
	for (i = 0; i < NR_PROMISES; i++)
		probe_promise_show(m, "qpromise", &promises[i]);
}
