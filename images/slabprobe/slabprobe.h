/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slabprobe: critical threads on an SPL cache, and a lever on its worker.
 *
 * main.c owns /proc/slabprobe, threads.c the critical threads and their
 * figures, hold.c the lever, cycle.c the trap, hook.c how both divert a function
 * of somebody else, fail.c which allocations fail, cache.c is the only file that
 * sees SPL headers.
 */
#ifndef SLABPROBE_H
#define SLABPROBE_H

#include <linux/seq_file.h>
#include <linux/types.h>

#define PROBE_NAME		"slabprobe"
#define PROBE_MAX_THREADS	64
#define PROBE_MAX_OBJECTS	16384
#define PROBE_MAX_COMMITS	100000

enum probe_state {
	PROBE_STOPPED,	/* holds nothing, idles */
	PROBE_RUNNING,	/* takes and gives back, round after round */
	PROBE_PARKED,	/* holds the objects of one round, idles */
};

struct probe_config {
	unsigned int threads;
	unsigned int objects;		/* per thread and round */
	unsigned int size;		/* bytes per object */
	unsigned int pause_us;		/* between two rounds */
	unsigned int reap_rounds;	/* 0: never reap */
	unsigned int commits;		/* a shrinker waits for; 0: rounds are no transactions */
};

enum probe_trap {
	PROBE_TRAP_OFF,
	PROBE_TRAP_INDUCED,	/* each page table of the growth is preceded by a reclaim */
	PROBE_TRAP_ORGANIC,	/* only if memory is low by itself */
};

/* Where page allocations are let fail. */
enum probe_fail {
	PROBE_FAIL_OFF,
	PROBE_FAIL_GROW,	/* in the worker, while it grows the cache */
	PROBE_FAIL_EMERGENCY,	/* in a critical thread, while it takes an object */
};

/* The flag bits of this SPL version; they have moved between versions. */
struct probe_bits {
	unsigned long kvmem;
	unsigned long deadlocked;
	unsigned long growing;
	unsigned long reaping;
};

struct probe_cache;
struct probe_grower;

/* cache.c */
struct probe_bits probe_cache_bits(void);
struct probe_cache *probe_cache_create(size_t size);
void probe_cache_destroy(struct probe_cache *cache);
void *probe_cache_alloc(struct probe_cache *cache);
void probe_cache_free(struct probe_cache *cache, void *obj);
void probe_cache_reap(struct probe_cache *cache);
size_t probe_cache_slab_size(const struct probe_cache *cache);
bool probe_cache_grows(const struct probe_cache *cache, const void *work);

/* threads.c; the caller holds the lock of main.c */
int probe_threads_set(const struct probe_config *config);
void probe_threads_config(struct probe_config *config);
int probe_threads_start(void);
int probe_threads_want(enum probe_state state);
bool probe_threads_own(const void *work);
void probe_threads_mark(void);
void probe_threads_show(struct seq_file *m);
void probe_threads_exit(void);

/* hold.c */
int probe_hold_init(void);
void probe_hold_exit(void);
void probe_hold(void);
void probe_release(void);
void probe_hold_show(struct seq_file *m);

/* cycle.c */
int probe_cycle_init(void);
void probe_cycle_exit(void);
int probe_trap_set(enum probe_trap wish, unsigned int commits);
struct probe_grower *probe_grow_begin(void);
void probe_grow_end(struct probe_grower *grower);
void probe_commit(bool with_emergency);
void probe_push_note(const void *obj);
void probe_push_on(size_t slab_size);
void probe_cycle_show(struct seq_file *m);

/* fail.c */
int probe_fail_set(enum probe_fail wish);
bool probe_fail_begin(enum probe_fail here);
void probe_fail_end(bool begun);
void probe_fail_grow(void (*grow)(void *data), void *data);
void probe_fail_exit(void);
void probe_fail_show(struct seq_file *m);

#endif
