// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How the guest stands, from files of /proc that are held open: to open one
 * needs memory, and to read it again next to none.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

static int meminfo_fd, vmstat_fd, pressure_fd, buddyinfo_fd;
static char buf[64 * 1024];

static int open_proc(const char *name)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/proc/%s", root, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

void set_up_levels(void)
{
	meminfo_fd = open_proc("meminfo");
	vmstat_fd = open_proc("vmstat");
	if (meminfo_fd < 0 || vmstat_fd < 0)
		die("/proc/meminfo and /proc/vmstat are needed");
	/* Kernels are built without these two, and then they read as 0. */
	pressure_fd = open_proc("pressure/memory");
	buddyinfo_fd = open_proc("buddyinfo");
	memset(buf, 1, sizeof(buf));
}

/* Into buf; a file that cannot be read is empty. */
static void read_text(int fd)
{
	size_t len = 0;
	ssize_t n;

	while (len < sizeof(buf) - 1) {
		n = fd < 0 ? 0 : pread(fd, buf + len, sizeof(buf) - 1 - len, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += n;
	}
	buf[len] = 0;
}

/* The number behind a word at the beginning of a line; 0 if there is no such line. */
static unsigned long long value(const char *word)
{
	size_t len = strlen(word);
	const char *line = buf;

	while (line) {
		if (!strncmp(line, word, len))
			return strtoull(line + len, NULL, 10);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return 0;
}

/* The total of a line `some avg10=0.00 avg60=0.00 avg300=0.00 total=12345`. */
static uint64_t stalled_us(const char *word)
{
	const char *line = strstr(buf, word), *total = line ? strstr(line, "total=") : NULL;

	return total ? strtoull(total + strlen("total="), NULL, 10) : 0;
}

/* Lines `Node 0, zone   DMA32   12 8 ...`, a number for each order. */
static void count_blocks(long blocks[MAX_ORDER])
{
	const char *at = buf;
	unsigned int order;
	char *end;

	memset(blocks, 0, MAX_ORDER * sizeof(*blocks));
	while ((at = strstr(at, "zone"))) {
		at += strlen("zone");
		at += strspn(at, " ");
		at += strcspn(at, " \n");
		for (order = 0; order < MAX_ORDER && *at == ' '; order++) {
			blocks[order] += strtol(at, &end, 10);
			at = end;
		}
	}
}

void read_levels(struct levels *now)
{
	read_text(meminfo_fd);
	now->total = value("MemTotal:");
	now->available = value("MemAvailable:");
	now->free = value("MemFree:");
	now->swap_used = value("SwapTotal:") - value("SwapFree:");
	/* Of these meminfo tells as well, but not of the same moment as of what was written. */
	read_text(vmstat_fd);
	now->dirty = value("nr_dirty ") * PAGE_KIB;
	now->writeback = value("nr_writeback ") * PAGE_KIB;
	now->written = value("nr_written ") * PAGE_KIB;
	now->scanned = value("pgscan_kswapd ");
	now->scanned_direct = value("pgscan_direct ");
	now->oom_kills = value("oom_kill ");
	read_text(pressure_fd);
	now->some_us = stalled_us("some ");
	now->full_us = stalled_us("full ");
	read_text(buddyinfo_fd);
	count_blocks(now->blocks);
}

long read_number(int fd)
{
	char text[32];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return -1;
	text[n] = 0;
	return strtol(text, NULL, 10);
}
