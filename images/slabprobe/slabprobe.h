/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * slabprobe: critical threads on an SPL cache, and a lever on its worker.
 *
 * main.c owns /proc/slabprobe, threads.c the critical threads and their
 * figures, service.c where their objects came from, longlived.c what their frees
 * cost, growth.c how often the cache grew, hold.c the lever, cycle.c the trap, hook.c
 * how both divert a function of somebody else, fail.c which allocations fail,
 * pressure.c low memory, fragment.c free memory in single pages, shrink.c how
 * shrinkers are registered, sites.c where SPL allocates, storm.c reclaim there,
 * ops.c what its transactions do, explore.c delays at instructions of SPL,
 * queues.c, caches.c and memory.c SPL as its users have it, cpus.c which CPUs are
 * there, sent.c objects on the network, linger.c races of taskqs.
 * cache.c, ops.c, queues.c, caches.c and memory.c alone see SPL headers.
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
	unsigned int noio;		/* 1: threads are marked, as SPL's own that write back */
	unsigned int keep;		/* at most, while the worker is held; 0: no more than objects */
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

/* Durations are counted by the power of two of their ns. */
#define PROBE_BUCKETS 64

/* A magazine of SPL: objects that it holds, at most, takes at a time, and has now. */
struct probe_magazine {
	unsigned int size;
	unsigned int refill;
	unsigned int avail;
};

/* Where a thread's objects came from; counters since loading. */
struct probe_service {
	bool alone;		/* on its CPU, so that its magazine is its own */
	unsigned int due;	/* objects that it gave back and has to find there */
	u64 hits;		/* from the magazine */
	u64 refills;		/* it was empty, or was not looked into */
	u64 grew;		/* of these, those for which the cache grew */
	u64 reusable;		/* had to be in the magazine */
	u64 reused;		/* of these, those that came from it */
	u64 waited[PROBE_BUCKETS];	/* slept until the worker had grown it: call to return */
	u64 woken[PROBE_BUCKETS];	/* the same ones: end of the growth to return */
};

/* What was so before an allocation. */
struct probe_call {
	unsigned int avail;
	unsigned long sleeps;
	u64 done, slabs;
};

/* When a growth was done, and how long all of them together had taken. */
struct probe_growth_end {
	u64 when_ns, busy_ns;
};

/* cache.c */
struct probe_bits probe_cache_bits(void);
struct probe_cache *probe_cache_create(size_t size);
void probe_cache_destroy(struct probe_cache *cache);
void *probe_cache_alloc(struct probe_cache *cache);
void probe_cache_free(struct probe_cache *cache, void *obj);
void probe_cache_reap(struct probe_cache *cache);
size_t probe_cache_slab_size(const struct probe_cache *cache);
bool probe_cache_grows(const struct probe_cache *cache, const void *work);
struct probe_magazine probe_cache_magazine(const struct probe_cache *cache);

/* service.c; by the thread itself */
unsigned int probe_bucket(u64 from_ns, u64 to_ns);
void probe_service_begin(struct probe_call *call, const struct probe_cache *cache);
void probe_service_end(struct probe_service *s, const struct probe_call *call,
		       const struct probe_cache *cache, u64 from_ns, u64 to_ns, bool emergency);
void probe_service_given(struct probe_service *s, const struct probe_cache *cache,
			 unsigned int objects);
void probe_service_reaped(struct probe_service *s);
void probe_service_add(struct probe_service *sum, const struct probe_service *s);
void probe_service_show(struct seq_file *m, const struct probe_service *sum,
			const struct probe_cache *cache);

/* growth.c */
void probe_growth_init(void);
void probe_growth_exit(void);
void probe_growth_of(size_t size);
u64 probe_growth_begin(void);
void probe_growth_end(u64 since_ns);
u64 probe_growth_begun(void);
u64 probe_growth_done(void);
u64 probe_growth_idle(u64 index, u64 now_ns);
u64 probe_growth_slabs(void);
void probe_growth_show(struct seq_file *m);

/* threads.c; the caller holds the lock of main.c */
int probe_threads_set(const struct probe_config *config);
void probe_threads_config(struct probe_config *config);
int probe_threads_start(void);
int probe_threads_want(enum probe_state state);
bool probe_threads_own(const void *work);
void probe_threads_mark(void);
void probe_threads_show(struct seq_file *m);
void probe_threads_exit(void);

/* fragment.c */
int probe_fragment(unsigned int mib);
int probe_fragment_pinned(void);
void probe_fragment_again(void);
bool probe_is_fragmented(void);
void probe_fragment_end(void);
void probe_fragment_show(struct seq_file *m);

/* longlived.c */
void probe_kept_reset(void);
void probe_kept_note(unsigned int kept, unsigned int objects, u64 cost_ns);
void probe_kept_show(struct seq_file *m);

/* hold.c */
int probe_hold_init(void);
void probe_hold_exit(void);
void probe_hold(bool own);
void probe_release(void);
bool probe_holds(void);
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

/* pressure.c */
int probe_pressure_init(void);
void probe_pressure_exit(void);
int probe_pressure_set(bool on);
void probe_pressure_show(struct seq_file *m);
/* fail.c */
int probe_fail_set(enum probe_fail wish);
bool probe_fail_begin(enum probe_fail here);
void probe_fail_end(bool begun);
void probe_fail_grow(void (*grow)(void *data), void *data);
void probe_fail_exit(void);
void probe_fail_show(struct seq_file *m);

#endif
