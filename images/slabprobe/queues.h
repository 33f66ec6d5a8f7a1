/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What queues.c and queuesteps.c share: the clients of taskqs, and what SPL promises them.
 */
#ifndef SLABPROBE_QUEUES_H
#define SLABPROBE_QUEUES_H

#include <sys/taskq.h>

#include <linux/atomic.h>
#include <linux/types.h>
#include <linux/wait.h>

#include "slabprobe.h"
#include "work.h"

#define NR_JOBS		8
#define DEPTH		3	/* tasks that wait for the task that they dispatch */
#define DYN_THREADS	(DEPTH + 1)
#define FAR_AWAY	(600 * HZ)

enum kind { ONE, TWO, DYN, FEW, NR_KINDS };

enum {
	DISPATCHED, RAN_ONCE, WAIT, WAIT_EMPTY, WAIT_ID, OUTSTANDING, OUTSTANDING_ENDS, ORDER, DELAY, CANCEL,
	CANCELLED, NOQUEUE, ENTRY, SHOWN, MEMBER, JOURNAL, PRIORITY, ROOM, ROOM_SLEEPS, DESTROY, INTERRUPTS, AS_MADE,
	COUNTED, NR_PROMISES,
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

/* Something that a client does with its queues, and asks for afterwards. */
struct queue_step {
	const char *name;
	void (*take)(struct client *c);
};

/* queues.c */
extern struct probe_promise probe_queue_promises[NR_PROMISES];
extern wait_queue_head_t probe_queues_wq;	/* of tasks and of who waits for them */

/* queuesteps.c: all steps, and one without a name behind them */
extern const struct queue_step probe_queue_steps[];

int probe_queue_cancel(taskq_t *queue, taskqid_t id);
void probe_job_make(struct client *c, unsigned int i, taskq_t *queue);
void probe_jobs_make(struct client *c, taskq_t *queue);
void probe_job_run(void *arg);
taskqid_t probe_job_dispatch(struct client *c, unsigned int i, task_func_t func, unsigned int flags);
/* A task that runs until its gate is opened. */
void probe_gate_close(struct client *c, unsigned int i);
void probe_gate_open(struct client *c, unsigned int i);

#endif
