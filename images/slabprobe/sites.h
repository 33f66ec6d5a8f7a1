/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SLABPROBE_SITES_H
#define SLABPROBE_SITES_H

#include <linux/seq_file.h>
#include <linux/types.h>

#define PROBE_MODULE_NAME_LEN 16

/* One chain from a function of the module to the allocator, with one mask, in one sort of thread. */
struct probe_site;

enum probe_sites_mode {
	PROBE_SITES_OFF,
	PROBE_SITES_COUNT,	/* whoever comes is counted */
};

/* sites.c; the caller of the commands holds the lock of main.c */
int probe_sites_init(void);
void probe_sites_exit(void);
int probe_sites_set(enum probe_sites_mode wish, const char *module);
void probe_sites_show_status(struct seq_file *m);
bool probe_sites_owns(unsigned long address);

/* What became of a reclaim at a site; called by the task itself. */
void probe_site_declined(struct probe_site *site);
void probe_site_entered(struct probe_site *site);
void probe_site_left(struct probe_site *site);
unsigned int probe_site_id(const struct probe_site *site);

/* storm.c */
struct probe_storm_config {
	unsigned int ops;	/* bits, by the table of ops.c */
	unsigned int rate;	/* one of so many allocations is preceded by a reclaim; 0: none */
	unsigned int trap;	/* bit 0: a shrinker waits where it may enter a filesystem, 1: where I/O is allowed */
	unsigned int mark;	/* 1: the transaction thread marks itself by SPL's own function */
	unsigned int helpers;	/* 1: reclaim also in threads that SPL waits for, and that are none of its, 2: there alone */
	unsigned int threads;	/* bit 0: a thread of the probe's, bit 1: tasks of a taskq */
	unsigned int how;	/* bit 0: try_to_free_pages(), 1: all shrinkers at priority 0 */
	unsigned int seed;
};

void probe_storm_exit(void);
int probe_storm_start(void);
void probe_storm_stop(void);
int probe_storm_set(const struct probe_storm_config *wish);
void probe_storm_config(struct probe_storm_config *out);
int probe_storm_only(const char *function, unsigned long offset);
bool probe_storm_runs(void);
void probe_storm_show(struct seq_file *m);
/* Whether this call, of the SPL function and at the offset in it that the site has, is preceded by a reclaim. */
bool probe_storm_wants(bool helper, unsigned long caller);
void probe_storm_reclaim(struct probe_site *site, gfp_t gfp);

/* ops.c: what a transaction does; it alone sees SPL's taskq */
#define PROBE_OPS_THREADED	((1U << 9) | (1U << 10) | (1U << 12) | (1U << 13))
int probe_ops_init(unsigned int ops);
void probe_ops_exit(void);
void probe_ops_run(unsigned int ops, unsigned int round);
unsigned int probe_ops_all(void);
u64 probe_ops_failed(void);
void probe_ops_mark(void);
int probe_ops_dispatch(void (*task)(void *), void *arg);

#endif
