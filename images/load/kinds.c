// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The loads. Each one has a level that is measured in the guest, a band in which
 * it is to be held, and workers that are told how to get it there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

/* Nothing is done about less, KiB: it is what other processes come and go with. */
#define SLACK_KIB	(KIB_PER_MIB / 2)
/* Of a dataset, by default, in bytes: such a buffer is not one of the kernel's own slabs. */
#define RECORD		(128 * 1024)
/* Reports that a rate is over. */
#define PAST		20
/* Workers are told to take so much more at a time, KiB. */
#define MOST_KIB	(16 * KIB_PER_MIB)

static long have(const struct load *load)
{
	long sum = 0;
	unsigned int i;

	for (i = 0; i < load->nr_workers; i++)
		sum += load->workers[i].have;
	return sum;
}

static uint64_t done_kib(const struct load *load)
{
	uint64_t sum = 0;
	unsigned int i;

	for (i = 0; i < load->nr_workers; i++)
		sum += load->workers[i].bytes;
	return sum / 1024;
}

/* Has all workers together take or give so much. What is still on its way from the last time is not asked for twice. */
static void take(struct load *load, long kib)
{
	long want = have(load) + (kib < MOST_KIB ? kib : MOST_KIB);
	unsigned int i;

	if (kib > -SLACK_KIB && kib < SLACK_KIB)
		return;
	for (i = 0; i < load->nr_workers; i++)
		load->workers[i].goal = want > 0 ? want / load->nr_workers / PAGE_KIB * PAGE_KIB : 0;
}

/* As much is dirty or on its way to the disk; the kernel's limits keep it there as long as writers are fast enough. */
static void start_writeback(struct load *load)
{
	long target = number_of(load, "target_mib") * KIB_PER_MIB;

	load->low = target / 2;
	load->high = 3 * target;
	start_worker(load, "writer", write_buffered);
	start_worker(load, "mapped-writer", write_mapped);
}

static void steer_writeback(struct load *load, const struct levels *now)
{
	load->level = now->dirty + now->writeback;
	load->done = now->written;
}

/* So much memory is available, and no more. */
static void start_lowmem(struct load *load)
{
	long target = number_of(load, "available_mib") * KIB_PER_MIB, n = number_of(load, "eaters");

	load->low = target / 2;
	load->high = target + target / 2;
	while (n--)
		start_worker(load, "eater", eat);
}

static void steer_lowmem(struct load *load, const struct levels *now)
{
	load->level = now->available;
	take(load, now->available - (load->low + load->high) / 2);
}

/* Free memory has next to no blocks of this order and above. */
static void start_fragment(struct load *load)
{
	load->low = 0;
	load->high = number_of(load, "blocks");
	start_worker(load, "scatterer", scatter);
}

static void steer_fragment(struct load *load, const struct levels *now)
{
	struct worker *worker = &load->workers[0];
	long order = number_of(load, "order");

	load->level = 0;
	for (; order < MAX_ORDER; order++)
		load->level += now->blocks[order];
	if (load->level > load->high && worker->goal == worker->have)
		worker->goal++;
}

/* What is free is so little, because the rest is file pages that are read one after the other. */
static void start_pagecache(struct load *load)
{
	load->low = 0;
	load->high = number_of(load, "free_mib") * KIB_PER_MIB;
	start_worker(load, "reader", read_through);
}

static void steer_pagecache(struct load *load, const struct levels *now)
{
	load->level = now->free;
	load->done = done_kib(load);
}

/* So much is in swap, and comes and goes. */
static void start_swap(struct load *load)
{
	long target = number_of(load, "used_mib") * KIB_PER_MIB;

	load->low = target / 2;
	load->high = target + target / 2;
	start_worker(load, "swapper", touch);
}

static void steer_swap(struct load *load, const struct levels *now)
{
	long target = (load->low + load->high) / 2, step = KIB_PER_MIB;

	load->level = now->swap_used;
	load->done = done_kib(load);
	/* Swap only comes to be used when memory is full, and then by and by. */
	if (now->available > 2 * MOST_KIB)
		step = MOST_KIB / 2;
	if (load->level < target && load->workers[0].goal == load->workers[0].have)
		take(load, step);
	else if (load->level > load->high)
		take(load, -step);
}

/*
 * Processes that together are larger than memory, from the beginning: nothing is
 * steered. So much swap at least is in use then.
 */
static void start_crowd(struct load *load)
{
	long n = number_of(load, "procs");

	load->low = number_of(load, "used_mib") * KIB_PER_MIB;
	load->high = LONG_MAX;
	while (n--)
		start_worker(load, "crowd", touch);
}

static void steer_crowd(struct load *load, const struct levels *now)
{
	unsigned int i;

	for (i = 0; i < load->nr_workers; i++)
		load->workers[i].goal = number_of(load, "each_mib") * KIB_PER_MIB;
	load->level = now->swap_used;
	load->done = done_kib(load);
}

/*
 * A process takes a fixed amount of locked memory, gives it back, and takes it
 * again, while ZFS has its cache full of what is written, read and scrubbed.
 * The level is what it had at most, in this round or the last.
 */
static void start_arc_mlock(struct load *load)
{
	long grab = number_of(load, "grab_mib") * KIB_PER_MIB;

	load->low = grab - grab / 10;
	load->high = grab;
	start_worker(load, "grabber", eat);
	start_worker(load, "zfs-writer", write_buffered);
	start_worker(load, "arc-reader", read_through);
	start_worker(load, "scrubber", scrub);
}

static void steer_arc_mlock(struct load *load, const struct levels *now)
{
	static long peak, last_peak;
	struct worker *grabber = &load->workers[0];
	long has = grabber->have;

	(void)now;
	if (has > peak)
		peak = has;
	if (has == grabber->goal && has > 0) {
		grabber->goal = 0;
	} else if (has == 0 && grabber->goal == 0) {
		grabber->goal = load->high;
		last_peak = peak;
		peak = 0;
	}
	load->level = peak > last_peak ? peak : last_peak;
	load->done = grabber->bytes / 1024;
}

/* A group of processes is at its own limit, whatever the rest of the guest has. */
static int current_fd = -1;

static void start_memcg(struct load *load)
{
	long limit = number_of(load, "limit_mib") * KIB_PER_MIB;
	char path[4096];

	snprintf(path, sizeof(path), "%s/memory.current", text_of(load, "group"));
	current_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (current_fd < 0)
		die("%s", path);
	load->low = limit - limit / 4;
	load->high = limit;
	start_worker(load, "group-reader", read_in_group);
}

static void steer_memcg(struct load *load, const struct levels *now)
{
	(void)now;
	load->level = read_number(current_fd) / 1024;
	load->done = done_kib(load);
}

/* Writes to a pool go on at least so fast; how fast is a matter of the pool. */
static void start_zfs(struct load *load)
{
	load->low = number_of(load, "rate_kib");
	load->high = LONG_MAX;
	start_worker(load, "zfs-writer", write_buffered);
}

/* The same by a mapping: pages are written back by ZFS when the kernel says so, and copied into its own cache. */
static void start_zfs_mmap(struct load *load)
{
	load->low = number_of(load, "rate_kib");
	load->high = LONG_MAX;
	start_worker(load, "zfs-mapper", write_mapped);
}

static void steer_zfs(struct load *load, const struct levels *now)
{
	static struct { uint64_t at_ns, done; } past[PAST];
	static unsigned int next;
	uint64_t at_ns = now_ns();

	(void)now;
	load->done = done_kib(load);
	/* From the oldest that is kept, which is one second ago. */
	if (past[next].at_ns)
		load->level = (load->done - past[next].done) * NSEC_PER_SEC / (at_ns - past[next].at_ns);
	past[next].at_ns = at_ns;
	past[next].done = load->done;
	next = (next + 1) % PAST;
}

const struct kind kinds[] = {
	{ .name = "writeback", .unit = "KiB", .works = true, .write_len = 64 * 1024,
	  .keys = { "dir", "target_mib", "file_mib" }, .start = start_writeback, .steer = steer_writeback },
	{ .name = "lowmem", .unit = "KiB", .keys = { "available_mib", "eaters" },
	  .start = start_lowmem, .steer = steer_lowmem },
	{ .name = "fragment", .unit = "blocks", .keys = { "order", "blocks" },
	  .start = start_fragment, .steer = steer_fragment },
	{ .name = "pagecache", .unit = "KiB", .works = true, .keys = { "device", "free_mib" },
	  .start = start_pagecache, .steer = steer_pagecache },
	{ .name = "swap", .unit = "KiB", .works = true, .keys = { "used_mib" },
	  .start = start_swap, .steer = steer_swap },
	{ .name = "zram", .unit = "KiB", .works = true, .keys = { "used_mib" },
	  .start = start_swap, .steer = steer_swap },
	{ .name = "zfs", .unit = "KiB/s", .works = true, .write_len = RECORD,
	  .keys = { "dir", "file_mib", "rate_kib" }, .start = start_zfs, .steer = steer_zfs },
	{ .name = "zfs-mmap", .unit = "KiB/s", .works = true, .keys = { "dir", "file_mib", "rate_kib" },
	  .start = start_zfs_mmap, .steer = steer_zfs },
	{ .name = "zvol-swap", .unit = "KiB", .works = true, .keys = { "procs", "each_mib", "used_mib" },
	  .start = start_crowd, .steer = steer_crowd },
	{ .name = "disk-swap", .unit = "KiB", .works = true, .keys = { "procs", "each_mib", "used_mib" },
	  .start = start_crowd, .steer = steer_crowd },
	{ .name = "arc-mlock", .unit = "KiB", .works = true, .write_len = RECORD,
	  .keys = { "dir", "device", "grab_mib", "file_mib" },
	  .start = start_arc_mlock, .steer = steer_arc_mlock },
	{ .name = "memcg", .unit = "KiB", .works = true, .keys = { "device", "group", "limit_mib" },
	  .start = start_memcg, .steer = steer_memcg },
	{ .name = NULL },
};
