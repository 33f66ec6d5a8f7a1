/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What queues.c, caches.c and memory.c share: work with SPL as its users have it, in
 * states that follow each other, and promises of SPL that are asked for meanwhile.
 * And the CPUs that it is done on.
 */
#ifndef SLABPROBE_WORK_H
#define SLABPROBE_WORK_H

#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/types.h>

enum probe_work {
	PROBE_WORK_NONE,	/* nothing is made yet */
	PROBE_WORK_RUNNING,	/* round after round */
	PROBE_WORK_LOADED,	/* at rest, with a known number of everything in hand */
	PROBE_WORK_EMPTIED,	/* at rest, everything given back */
	PROBE_WORK_GONE,	/* queues and caches are destroyed */
};

/* What SPL promises: how often it was asked for, how often broken, and the first time. */
struct probe_promise {
	const char *name;
	/* Several threads may ask for one of them. */
	atomic64_t asked, broken;
	s64 saw, wanted;
	const char *at;
};

static inline void probe_keep(struct probe_promise *promise, const char *at, s64 saw, s64 wanted)
{
	atomic64_inc(&promise->asked);
	if (saw == wanted)
		return;
	if (!atomic64_read(&promise->broken)) {
		promise->saw = saw;
		promise->wanted = wanted;
		promise->at = at;
	}
	/* Who sees it broken sees how. */
	smp_mb__before_atomic();
	atomic64_inc(&promise->broken);
}

static inline void probe_promise_show(struct seq_file *m, const char *tag, struct probe_promise *promise)
{
	u64 broken = atomic64_read_acquire(&promise->broken);

	seq_printf(m, "%s %s asked=%llu broken=%llu", tag, promise->name, (u64)atomic64_read(&promise->asked), broken);
	if (broken)
		seq_printf(m, " saw=%lld wanted=%lld at=%s", promise->saw, promise->wanted, promise->at);
	seq_putc(m, '\n');
}

static inline const char *probe_work_name(enum probe_work state)
{
	static const char * const names[] = { "none", "running", "loaded", "emptied", "gone" };

	return names[state];
}

/* A thread of such work. */
struct probe_hand {
	unsigned int id;
	struct task_struct *task;
	enum probe_work reached;	/* with release, as soon as it has come there */
};

/* work.c: does nothing if it was started; the caller holds the lock of main.c */
int probe_hand_start(struct probe_hand *hand, int (*run)(void *), void *data, char letter, unsigned int id);
/* ... waits until it has come to the last state, which the caller has asked for */
void probe_hand_stop(struct probe_hand *hand);

/* Which CPUs are there. */
enum probe_cpus {
	PROBE_CPUS_ALL,
	PROBE_CPUS_AWAY,	/* the first one alone */
	PROBE_CPUS_MOVING,	/* the first one, and others that go and come */
};

/* queues.c: the caller holds the lock of main.c */
int probe_queues_want(enum probe_work state);
void probe_queues_exit(void);
void probe_queues_show(struct seq_file *m);

/* caches.c: likewise */
int probe_caches_want(enum probe_work state);
void probe_caches_exit(void);
void probe_caches_show(struct seq_file *m);

/* memory.c: likewise */
int probe_memory_want(enum probe_work state);
void probe_memory_exit(void);
void probe_memory_show(struct seq_file *m);

/* sent.c; what was sent has to be received before anything else is */
bool probe_send(const u64 *word);
u64 probe_receive(void);
void probe_send_exit(void);

/* linger.c: races of taskqs are made wide while somebody wishes it */
void probe_linger_init(void);
void probe_linger_exit(void);
void probe_linger(bool on);

/* cpus.c: likewise */
enum probe_cpus probe_cpus_find(const char *name);
int probe_cpus_want(enum probe_cpus state);
bool probe_cpus_move(void);
void probe_keep_observer(void);
void probe_cpus_exit(void);
void probe_cpus_show(struct seq_file *m);

#endif
