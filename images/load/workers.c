// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the processes of a load do. Each one is the first that the OOM killer
 * takes, and tells through shared memory what it has and when it came round.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

#define PAGE		4096UL
#define STEP_KIB	512L	/* an eater takes at a time */
#define NAP_NS		(NSEC_PER_SEC / 50)
#define CHUNK_LEN	(128 * 1024)
#define TOUCHED		32	/* pages between two naps */
#define LEFT_KIB	(8 * KIB_PER_MIB)	/* of free memory, by whoever takes it in rounds */

static char chunk[CHUNK_LEN];

static uint64_t next_random(uint64_t *state)
{
	/* Marsaglia, "Xorshift RNGs", Journal of Statistical Software 8 (2003); 0 is no state. */
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void beat(struct worker *me, uint64_t bytes)
{
	atomic_fetch_add(&me->bytes, bytes);
	me->beat_ns = now_ns();
}

static void write_proc_self(const char *name, const char *text)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	/* Where it is not allowed, as in a test, it goes on as it is. */
	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "splvm-load: %s: %s\n", path, strerror(errno));
	close(fd);
}

void start_worker(struct load *load, const char *role, work_fn work)
{
	struct worker *me = &load->workers[load->nr_workers++];
	struct sched_param normal = { .sched_priority = 0 };
	pid_t parent = getpid(), pid;

	me->role = role;
	me->beat_ns = now_ns();
	pid = fork();
	if (pid < 0)
		die("fork");
	if (pid) {
		me->pid = pid;
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	sched_setscheduler(0, SCHED_OTHER, &normal);
	/* What is measured beside it comes first. */
	setpriority(PRIO_PROCESS, 0, 10);
	write_proc_self("oom_score_adj", "1000");
	write_proc_self("comm", role);
	signal(SIGTERM, SIG_DFL);
	work(load, me);
	_exit(0);
}

/* Address space for more than there is memory, in single pages. */
static char *reserve(size_t *kib)
{
	struct sysinfo info;
	char *base;

	sysinfo(&info);
	*kib = (info.totalram + info.totalswap) / 1024 * info.mem_unit;
	base = mmap(NULL, *kib * 1024, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		_exit(errno);
	madvise(base, *kib * 1024, MADV_NOHUGEPAGE);
	return base;
}

/* Back to the kernel; true if there was something to give. */
static bool give_back(struct worker *me, char *base)
{
	long goal = me->goal, have = me->have;

	if (goal >= have)
		return false;
	munlock(base + goal * 1024, (have - goal) * 1024);
	madvise(base + goal * 1024, (have - goal) * 1024, MADV_DONTNEED);
	me->have = goal;
	return true;
}

static long next_step(struct worker *me, long room)
{
	long goal = me->goal, step = (goal < room ? goal : room) - me->have;

	return step < STEP_KIB ? step : STEP_KIB;
}

/* Has as much locked memory as it is told. */
void eat(const struct load *load, struct worker *me)
{
	size_t room;
	char *base = reserve(&room);
	long step;

	(void)load;
	for (;;) {
		step = next_step(me, room);
		if (step > 0 && !mlock(base + me->have * 1024, step * 1024)) {
			me->have += step;
			beat(me, step * 1024);
			continue;
		}
		give_back(me, base);
		beat(me, 0);
		nap(NAP_NS);
	}
}

/* Has as much memory as it is told, and comes back to it in no order, so that it is swapped in again. */
void touch(const struct load *load, struct worker *me)
{
	uint64_t state = me->seed;
	size_t room, i;
	char *base = reserve(&room);
	long step, at;

	(void)load;
	for (;;) {
		step = next_step(me, room);
		/* A third of each page is what no compression makes anything of; the rest is written with it. */
		for (at = 0; at < step * 1024; at += sizeof(state))
			*(uint64_t *)(base + me->have * 1024 + at) = at % PAGE < PAGE / 3 ? next_random(&state) : state;
		if (step > 0) {
			me->have += step;
			beat(me, step * 1024);
			continue;
		}
		give_back(me, base);
		for (i = 0; i < TOUCHED && me->have; i++)
			base[next_random(&state) % (me->have * 1024)]++;
		beat(me, i * PAGE);
		nap(NAP_NS);
	}
}

/*
 * In each round it takes what is free, in locked pages, and gives every other one
 * back. Pages that are taken one after the other mostly lie so in memory too.
 */
void scatter(const struct load *load, struct worker *me)
{
	size_t room, at, end = 0;
	char *base = reserve(&room);
	struct sysinfo info;

	(void)load;
	for (;;) {
		if (me->goal <= me->have) {
			beat(me, 0);
			nap(NAP_NS);
			continue;
		}
		at = end;
		while (end < room && !sysinfo(&info) && info.freeram * info.mem_unit / 1024 > (size_t)LEFT_KIB &&
		       !mlock(base + end * 1024, STEP_KIB * 1024))
			end += STEP_KIB;
		beat(me, (end - at) * 1024);
		for (; at < end; at += 2 * PAGE_KIB) {
			munlock(base + at * 1024, PAGE);
			madvise(base + at * 1024, PAGE, MADV_DONTNEED);
		}
		me->have++;
	}
}

static int open_file(const struct load *load, const char *name)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", text_of(load, "dir"), name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		_exit(errno);
	return fd;
}

void write_buffered(const struct load *load, struct worker *me)
{
	size_t len = load->kind->write_len;
	long places = number_of(load, "file_mib") * 1024 * 1024 / len;
	uint64_t state = me->seed;
	int fd = open_file(load, me->role);
	ssize_t n;

	for (;;) {
		memcpy(chunk, &state, sizeof(state));
		n = pwrite(fd, chunk, len, next_random(&state) % places * len);
		if (n < 0 && errno != EINTR)
			_exit(errno);
		beat(me, n > 0 ? n : 0);
	}
}

void write_mapped(const struct load *load, struct worker *me)
{
	size_t len = number_of(load, "file_mib") * 1024 * 1024;
	uint64_t state = me->seed;
	int fd = open_file(load, me->role);
	char *base;

	if (ftruncate(fd, len))
		_exit(errno);
	base = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		_exit(errno);
	for (;;) {
		uint64_t *page = (uint64_t *)(base + next_random(&state) % (len / PAGE) * PAGE);

		*page = state;
		beat(me, PAGE);
	}
}

/* From one end to the other, and again. */
void read_through(const struct load *load, struct worker *me)
{
	int fd = open(text_of(load, "device"), O_RDONLY | O_CLOEXEC);
	off_t at = 0;
	ssize_t n;

	if (fd < 0)
		_exit(errno);
	for (;;) {
		n = pread(fd, chunk, CHUNK_LEN, at);
		if (n < 0 && errno != EINTR)
			_exit(errno);
		if (n == 0 && at == 0)
			_exit(ENODATA);
		at = n > 0 ? at + n : 0;
		beat(me, n > 0 ? n : 0);
	}
}

/* Has the pool scrubbed, again and again. */
void scrub(const struct load *load, struct worker *me)
{
	int status;
	pid_t pid;

	(void)load;
	for (;;) {
		pid = fork();
		if (pid < 0)
			_exit(errno);
		if (!pid) {
			execl("/sbin/zpool", "zpool", "scrub", "-w", "tank", NULL);
			_exit(127);
		}
		if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status))
			_exit(EIO);
		beat(me, 0);
	}
}

void read_in_group(const struct load *load, struct worker *me)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.procs", text_of(load, "group"));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		_exit(errno);
	close(fd);
	read_through(load, me);
}
