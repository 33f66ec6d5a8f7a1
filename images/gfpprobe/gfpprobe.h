/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * gfpprobe: with which flags does vmalloc allocate its page tables?
 *
 * main.c makes the trials and owns /proc/gfpprobe, watch.c sees what the page
 * allocator is asked for, area.c finds addresses that nobody has used yet.
 */
#ifndef GFPPROBE_H
#define GFPPROBE_H

#include <linux/gfp.h>
#include <linux/seq_file.h>
#include <linux/types.h>

#define GFPPROBE_NAME		"gfpprobe"
#define GFPPROBE_MAX_ALLOCS	16

/* What an allocation of pages is for: the table that a page becomes, or anything else. */
enum gfpprobe_level {
	LEVEL_OTHER,
	LEVEL_PTE,
	LEVEL_PMD,
	LEVEL_PUD,
	LEVEL_P4D,
	NR_LEVELS,
};

/* Allocations of one level with the same flags. */
struct gfpprobe_alloc {
	enum gfpprobe_level level;
	/* As the page allocator was given it, and what the scope of the task makes of it. */
	gfp_t gfp;
	gfp_t effective;
	/* PF_MEMALLOC_NOIO and PF_MEMALLOC_NOFS of the task. */
	bool noio;
	bool nofs;
	unsigned int count;
};

/* What was seen of one task between gfpprobe_watch_begin() and _end(). */
struct gfpprobe_seen {
	struct gfpprobe_alloc allocs[GFPPROBE_MAX_ALLOCS];
	unsigned int nr_allocs;
	/* Allocations for which there was no room. */
	unsigned int lost;
	/* Calls of the function that makes a table of this level. */
	unsigned int calls[NR_LEVELS];
};

/* area.c; the kernel's page tables are only read */
unsigned int gfpprobe_paging_levels(void);
unsigned int gfpprobe_tables(unsigned long addr);
unsigned long gfpprobe_fresh_area(unsigned long *end);

/* watch.c */
extern const char * const gfpprobe_level_names[NR_LEVELS];
int gfpprobe_watch_init(void);
void gfpprobe_watch_exit(void);
void gfpprobe_watch_begin(struct gfpprobe_seen *seen);
void gfpprobe_watch_end(void);
void gfpprobe_watch_show(struct seq_file *m);
void *gfpprobe_function(const char * const *names, const char **found);

#endif
