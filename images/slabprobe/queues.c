// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Taskqs, as users of SPL have them: two clients, each with four queues of its
 * own, dispatch, delay, cancel and wait, and ask after each step for what SPL
 * promises. Each round also makes a queue and destroys it.
 *
 * A client that waits for ever is told by the step in which it is, and since when.
 */
#include <sys/taskq.h>
#include <sys/thread.h>

#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/wait.h>

#include "queues.h"

#define NR_CLIENTS	2

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

struct probe_promise probe_queue_promises[NR_PROMISES] = {
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

static struct client clients[NR_CLIENTS];
static enum probe_work wish = PROBE_WORK_NONE;
DECLARE_WAIT_QUEUE_HEAD(probe_queues_wq);
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
		probe_keep(&probe_queue_promises[AS_MADE], "priority", queue->tq_pri, kinds[i].priority);
		probe_keep(&probe_queue_promises[AS_MADE], "mina", queue->tq_minalloc, kinds[i].min);
		probe_keep(&probe_queue_promises[AS_MADE], "maxa", queue->tq_maxalloc, kinds[i].max);
		probe_keep(&probe_queue_promises[AS_MADE], "flags", queue->tq_flags, kinds[i].flags | TASKQ_ACTIVE);
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

	probe_jobs_make(c, c->queues[ONE]);
	probe_gate_close(c, 0);
	probe_job_dispatch(c, 1, probe_job_run, TQ_SLEEP);
	probe_job_dispatch(c, 2, probe_job_run, TQ_FRONT);
	for (i = 0; i < ARRAY_SIZE(c->delayed); i++)
		c->delayed[i] = taskq_dispatch_delay(c->queues[ONE], probe_job_run, &c->jobs[3], TQ_SLEEP,
						     jiffies + FAR_AWAY);
	probe_job_make(c, 4, c->queues[TWO]);
	probe_job_make(c, 5, c->queues[TWO]);
	probe_gate_close(c, 4);
	probe_gate_close(c, 5);
	probe_job_make(c, 6, c->queues[DYN]);
	probe_job_make(c, 7, c->queues[DYN]);
	probe_gate_close(c, 6);
	probe_gate_close(c, 7);
	c->running[ONE] = c->pending[ONE] = c->front[ONE] = 1;
	c->later[ONE] = ARRAY_SIZE(c->delayed);
	c->running[TWO] = c->running[DYN] = 2;
}

static void empty_queues(struct client *c)
{
	static const unsigned int gates[] = { 0, 4, 5, 6, 7 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(c->delayed); i++)
		probe_queue_cancel(c->queues[ONE], c->delayed[i]);
	for (i = 0; i < ARRAY_SIZE(gates); i++)
		probe_gate_open(c, gates[i]);
	for (i = 0; i < NR_KINDS; i++)
		taskq_wait(c->queues[i]);
	memset(c->running, 0, sizeof(c->running));
	memset(c->pending, 0, sizeof(c->pending));
	memset(c->front, 0, sizeof(c->front));
	memset(c->later, 0, sizeof(c->later));
}

static void take_steps(struct client *c)
{
	unsigned int i, nr = 0;

	while (probe_queue_steps[nr].name)
		nr++;
	for (i = 0; i < nr && READ_ONCE(wish) == PROBE_WORK_RUNNING; i++) {
		/* Each begins with another one, so that they do not go in step. */
		const struct queue_step *step = &probe_queue_steps[(i + c->hand.id * 5) % nr];

		begin(c, step->name);
		step->take(c);
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

		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_threads_active), c->running[i]);
		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_pending), c->pending[i]);
		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_priority), c->front[i]);
		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_delayed), c->later[i]);
		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_total),
			   c->pending[i] + c->front[i] + c->later[i]);
		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_executed),
			   wmsum_value(&sums->tqs_tasks_executed_normal) + wmsum_value(&sums->tqs_tasks_executed_priority));
		probe_keep(&probe_queue_promises[COUNTED], at, wmsum_value(&sums->tqs_tasks_dispatched) +
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
			probe_keep(&probe_queue_promises[DISPATCHED], "taskq_create", 0, 1);
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
		probe_promise_show(m, "qpromise", &probe_queue_promises[i]);
}
