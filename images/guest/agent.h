/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the sampling agent share: agent.c makes the stream,
 * agent_sources.c what goes into it, agent_tasks.c what is said of tasks;
 * agent_clone.c has an agent wait in a template until a clone's harness calls;
 * agent_bell.c does all that in virtual time, in which there is no other way out;
 * agent_run.c runs commands of the host's.
 */
#ifndef AGENT_H
#define AGENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define NSEC_PER_SEC	1000000000ULL
#define SHORT_LEN	192	/* of a frame's header, and of short payloads */
#define NR_SOURCES	14
#define NR_READERS	(NR_SOURCES + 1)
#define BELL_CHUNK	(16 * 1024)
/* prctl(2), since Linux 5.6; older headers lack it. */
#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER	57
#endif

struct settings {
	unsigned long rate, slow_every, ring_kib;
	unsigned long bell;	/* in virtual time: where the memory is that is shared with the host */
	const char *root, *port;
	bool realtime, settles, attaches;
};

/* All fixed before the first tick. */
extern struct settings settings;
extern uint64_t base_ns, period_ns;
extern int proc_fd;

extern atomic_bool stopping;

/* Text in a buffer of fixed size. What does not fit is left out, and all after it. */
struct text {
	char *buf;
	size_t len, size;
	bool cut;
};

void text_put(struct text *t, const char *s, size_t n);
void text_str(struct text *t, const char *s);
void text_num(struct text *t, const char *before, uint64_t value);

uint64_t now_ns(void);
void sleep_until(uint64_t ns);
/* The latest tick at or before now that is a multiple of every. */
uint64_t last_due(uint64_t now, uint64_t every);

struct frame {
	const char *source, *what;
	uint64_t tick, start_ns, end_ns;
	const char *payload;
	size_t len;
};

void ring_lock(void);
void ring_unlock(void);
/* With the lock held. The frame takes the next number; false: there is no room and it is lost. */
bool ring_push(const struct frame *f);
/* With the lock held. Has the writers empty the ring. */
void ring_flush(void);
/* With the lock held. Appends how many numbers are used up, and how many frames were lost. */
void ring_stamp(struct text *t, const char *before);
/* With the lock held. Nothing comes after this frame, and the process ends when all outputs have it. */
void ring_close(const struct frame *last);

void set_up_ring(void);
/* What it writes at a time is at most this long: the kernel takes as much memory for it. */
void ring_add_output(int fd, size_t chunk, ssize_t (*write)(int fd, const void *buf, size_t n));
void start_writers(void);

/* After a failed read or write: whether to try again. Waits if the descriptor does not. */
bool again(int fd, short events);

void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...);
void start_thread(void *(*run)(void *), void *arg);
/* A thread comes back from here when all are ready and base_ns is known. */
void wait_for_start(void);

void set_up_sources(void);
/* Otherwise they are opened when they are due, as those that are not there yet: that may hang as well as a reading. */
void open_sources(void);
/* The readers wait for the start, and then for start_sampling(). */
void start_readers(void);
void start_sampling(void);

/* Goes to the background. */
void settle(void);
/* There: says on the console when whoever has started us is gone. Comes back with the streams of who wants samples. */
void wait_for_wish(int port);
/* Gives our streams to an agent that waits, and waits for its end. False: there is none. */
bool attach(void);

/* The bell is then an output, and what the host answers can be read from here. */
int set_up_bell(unsigned long address);
/* Says on the console that all is set up, and comes back in a clone. */
void wait_for_go(void);

/* Starts /bin/sh as any other process, with the agent's standard error as its output. Gives its pid, or -1. */
pid_t start_shell(const char *const argv[]);
/* Has it run a command, and waits. 0, or the exit status; an errno if there is none. */
int run_shell(const char *command);

/* With the lock held. For a while after now, what is read is written at once. */
void be_prompt(uint64_t now);

/* Looks for tasks of interest. True: some have no name of their own yet. */
bool find_tasks(void);
/* Appends all that are known, each with its stack, and forgets those that are gone. */
void put_tasks(struct text *out);

#endif
