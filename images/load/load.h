/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the load generator share: main.c holds targets and reports,
 * kinds.c is the table of loads, workers.c what their processes do, levels.c how
 * the guest stands.
 */
#ifndef LOAD_H
#define LOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ARRAY_SIZE(a)	(sizeof(a) / sizeof((a)[0]))
#define NSEC_PER_SEC	1000000000ULL
#define KIB_PER_MIB	1024L
#define PAGE_KIB	4L
#define MAX_LOADS	8
#define MAX_WORKERS	16	/* of one load */
#define MAX_VALUES	6
#define MAX_ORDER	11	/* of the page allocator, include/linux/mmzone.h */

/* How the guest stands; amounts in KiB. */
struct levels {
	long total, available, free, dirty, writeback, swap_used;
	uint64_t written;	/* to disks, since the boot */
	uint64_t scanned, scanned_direct;	/* pages, by kswapd and by who needs memory */
	uint64_t oom_kills;
	uint64_t some_us, full_us;	/* tasks stalled for memory: some, all */
	long blocks[MAX_ORDER];	/* free blocks of each order, in all zones */
};

struct load;

/* Shared by a worker and the process that steers it; locked in memory. */
struct worker {
	const char *role;
	pid_t pid;
	int status;		/* of waitpid(2), once it has ended */
	bool ended;
	uint64_t seed;
	atomic_long goal, have;	/* KiB, or rounds: what it is to have, and has */
	atomic_ullong bytes;	/* that it has written, read or taken so far */
	atomic_ullong beat_ns;	/* when it last came round */
};

struct kind {
	const char *name, *unit;
	const char *keys[MAX_VALUES];	/* all of them have to be given */
	bool works;		/* `done` has to go on */
	size_t write_len;	/* bytes that its writer writes at a time */
	/* Sets the band and starts the workers. */
	void (*start)(struct load *load);
	/* Tells the level and what was done, and sets the workers' goals. */
	void (*steer)(struct load *load, const struct levels *now);
};

struct load {
	const struct kind *kind;
	const char *values[MAX_VALUES];
	unsigned int nr_workers;
	struct worker *workers;
	long low, high, level;	/* in the kind's unit; the band, and where it stands */
	uint64_t done;		/* KiB */
	uint64_t since_ns;	/* since when the level is in the band; 0: it is not */
};

extern const struct kind kinds[];
extern const char *root;	/* prefix of /proc and /sys */

uint64_t now_ns(void);
void nap(uint64_t ns);
void __attribute__((noreturn, format(printf, 1, 2))) die(const char *fmt, ...);

const char *text_of(const struct load *load, const char *key);
/* A whole number of at least 1; other texts are an error of the caller's. */
long number_of(const struct load *load, const char *key);

void set_up_levels(void);
void read_levels(struct levels *now);
/* The whole of a small file as a number, -1 if it cannot be read. */
long read_number(int fd);

typedef void (*work_fn)(const struct load *load, struct worker *me);
/* A process that does this until it is killed. */
void start_worker(struct load *load, const char *role, work_fn work);
void eat(const struct load *load, struct worker *me);
void touch(const struct load *load, struct worker *me);
void scatter(const struct load *load, struct worker *me);
void write_buffered(const struct load *load, struct worker *me);
void write_mapped(const struct load *load, struct worker *me);
void read_through(const struct load *load, struct worker *me);
void scrub(const struct load *load, struct worker *me);
void read_in_group(const struct load *load, struct worker *me);

#endif
