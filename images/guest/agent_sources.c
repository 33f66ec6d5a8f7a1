// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The sources of the agent's stream: what they read, and when. Each has a
 * thread; the finder looks for tasks, and the keeper tells which reads hang.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define FILE_LEN	(64 * 1024)	/* of one reading; more is cut */
#define MAX_TASKS	64
#define MAX_STACK_LINES	32
#define MAX_OTHERS	4096

struct source {
	const char *name;
	bool slow;
	int (*collect)(struct source *src, struct text *out);	/* 0 or an errno */
	const char *paths[3];	/* below /proc */
	int fds[3];		/* -1: to be opened at the next due tick */
	const char *failed;	/* the path that the last error is about */
	atomic_uint_fast64_t since_ns;	/* when the read under way began; 0: none */
	uint64_t tick;			/* of that read */
	char (*bufs)[FILE_LEN];		/* [cur] for the next reading, the other: the last data */
	unsigned int cur;
	size_t last_len;
	bool has_last;
};

/* Appends a whole file. Files of seq_file come in pieces of about a page. */
static int read_file(int fd, struct text *out)
{
	off_t at = 0;
	char more;

	for (;;) {
		size_t room = out->size - out->len;
		ssize_t n = pread(fd, room ? out->buf + out->len : &more, room ? room : 1, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		if (n == 0)
			return 0;
		if (!room) {
			out->cut = true;
			return 0;
		}
		out->len += n;
		at += n;
	}
}

static int read_path(struct source *src, unsigned int i, struct text *out)
{
	int *fd = &src->fds[i];
	int err;

	src->failed = src->paths[i];
	if (*fd < 0)
		*fd = openat(proc_fd, src->paths[i], O_RDONLY | O_CLOEXEC);
	if (*fd < 0)
		return errno;
	err = read_file(*fd, out);
	/*
	 * To be short of memory passes. After most other errors, such as that
	 * of a module that went away, this descriptor never gives data again.
	 */
	if (err && err != ENOMEM) {
		close(*fd);
		*fd = -1;
	}
	return err;
}

static int collect_file(struct source *src, struct text *out)
{
	return read_path(src, 0, out);
}

static int collect_pressure(struct source *src, struct text *out)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < ARRAY_SIZE(src->paths) && !err; i++) {
		text_str(out, "# ");
		text_str(out, strrchr(src->paths[i], '/') + 1);
		text_str(out, "\n");
		err = read_path(src, i, out);
	}
	return err;
}

/*
 * The threads of interest. The finder fills a free slot and then sets its pid;
 * the source `tasks` reads slots with a pid and frees those whose task is gone.
 */
struct task {
	atomic_int pid;		/* 0: the slot is free */
	int status_fd;
	int stack_fd;		/* or -errno */
	char comm[32];
};

struct switches {
	char state;
	uint64_t voluntary, nonvoluntary;
};

static struct task tasks[MAX_TASKS];

static int open_task(int pid, const char *name)
{
	char path[32];
	struct text t = { .buf = path, .size = sizeof(path) };
	int fd;

	text_num(&t, "", pid);
	text_put(&t, name, strlen(name) + 1);
	fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static void add_task(int pid, const char *comm)
{
	struct task *task = tasks;
	unsigned int i;

	while (task < tasks + MAX_TASKS && atomic_load(&task->pid))
		task++;
	if (task == tasks + MAX_TASKS)
		return;
	task->status_fd = open_task(pid, "/status");
	if (task->status_fd < 0)
		return;
	task->stack_fd = open_task(pid, "/stack");
	for (i = 0; i < sizeof(task->comm) - 1 && comm[i]; i++)
		task->comm[i] = comm[i] > ' ' && comm[i] < 0x7f ? comm[i] : '_';
	task->comm[i] = '\0';
	atomic_store(&task->pid, pid);
}

static bool is_known(int pid)
{
	unsigned int i;

	for (i = 0; i < MAX_TASKS; i++)
		if (atomic_load(&tasks[i].pid) == pid)
			return true;
	return false;
}

/* Adds a task if its name is of interest. True: it is another one, and stays so. */
static bool is_other(int pid)
{
	char comm[64];
	ssize_t n;
	int fd = open_task(pid, "/comm");

	if (fd < 0)
		return false;
	n = pread(fd, comm, sizeof(comm) - 1, 0);
	close(fd);
	if (n <= 0)
		return false;
	comm[n - (comm[n - 1] == '\n')] = '\0';
	if (!strncmp(comm, "spl_kmem_cache", 14) || !strncmp(comm, "slabprobe", 9)) {
		add_task(pid, comm);
		return false;
	}
	/* Every kernel thread has this name for an instant when it is new. */
	return strcmp(comm, "kthreadd") != 0;
}

/*
 * Only tasks that were not there at the last scan are opened. proc lists them
 * by rising number, so that one pass over the last scan's numbers is enough; in
 * another order, some are merely opened again.
 */
static void find_tasks(void)
{
	static _Alignas(struct dirent64) char buf[8192];
	static int others[2][MAX_OTHERS];
	static unsigned int count[2], old;
	unsigned int k = 0, new = !old;
	ssize_t n, at;

	count[new] = 0;
	lseek(proc_fd, 0, SEEK_SET);
	while ((n = getdents64(proc_fd, buf, sizeof(buf))) > 0) {
		for (at = 0; at < n; at += ((struct dirent64 *)(buf + at))->d_reclen) {
			int pid = atoi(((struct dirent64 *)(buf + at))->d_name);

			if (pid <= 0 || is_known(pid))
				continue;
			while (k < count[old] && others[old][k] < pid)
				k++;
			if ((k < count[old] && others[old][k] == pid) || is_other(pid))
				if (count[new] < MAX_OTHERS)
					others[new][count[new]++] = pid;
		}
	}
	old = new;
}

/*
 * Not done by the source `tasks` itself: a look into a new directory of proc
 * allocates, and may wait for the very reclaim that the source is to show.
 */
static void *finder_main(void *arg)
{
	uint64_t tick = settings.slow_every;

	wait_for_start();
	while (!stopping) {
		sleep_until(base_ns + tick * period_ns);
		find_tasks();
		tick = last_due(now_ns(), settings.slow_every) + settings.slow_every;
	}
	return arg;
}

static bool read_switches(int fd, struct switches *s)
{
	static const char keys[3][32] = {
		"\nState:\t", "\nvoluntary_ctxt_switches:\t", "\nnonvoluntary_ctxt_switches:\t",
	};
	static char buf[4096];	/* only one thread comes here */
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);
	const char *value[3];
	unsigned int i;

	if (n <= 0)
		return false;
	buf[n] = '\0';
	for (i = 0; i < ARRAY_SIZE(keys); i++) {
		value[i] = strstr(i ? value[i - 1] : buf, keys[i]);
		if (!value[i])
			return false;
		value[i] += strlen(keys[i]);
	}
	s->state = *value[0];
	s->voluntary = strtoull(value[1], NULL, 10);
	s->nonvoluntary = strtoull(value[2], NULL, 10);
	return true;
}

static void put_stack(struct text *out, const char *stack, ssize_t len)
{
	unsigned int lines = 0;
	ssize_t end = 0;

	while (end < len && lines < MAX_STACK_LINES)
		lines += stack[end++] == '\n';
	text_put(out, stack, end);
	if (end && stack[end - 1] != '\n')
		text_str(out, "\n");
}

/*
 * The counters are read on both sides of the stack: only if they agree does the
 * stack belong to one and the same sleep. False: the task is gone.
 */
static bool put_task(const struct task *task, int pid, struct text *out)
{
	static char stack[8192];
	struct switches before, after;
	ssize_t len = task->stack_fd;

	if (!read_switches(task->status_fd, &before))
		return false;
	if (len >= 0)
		len = pread(task->stack_fd, stack, sizeof(stack), 0);
	if (len < 0 && task->stack_fd >= 0)
		len = -errno;
	if (!read_switches(task->status_fd, &after))
		return false;
	text_num(out, "task pid=", pid);
	text_str(out, " comm=");
	text_str(out, task->comm);
	text_str(out, " state=");
	text_put(out, &after.state, 1);
	text_num(out, " voluntary=", after.voluntary);
	text_num(out, " nonvoluntary=", after.nonvoluntary);
	if (before.voluntary != after.voluntary || before.nonvoluntary != after.nonvoluntary)
		text_str(out, " moved=1");
	text_str(out, "\n");
	if (len < 0) {
		text_num(out, "stack errno=", -len);
		text_str(out, "\n");
	} else {
		put_stack(out, stack, len);
	}
	return true;
}

static int collect_tasks(struct source *src, struct text *out)
{
	unsigned int i;

	src->failed = "tasks";
	for (i = 0; i < MAX_TASKS; i++) {
		struct task *task = &tasks[i];
		int pid = atomic_load(&task->pid);

		if (!pid || put_task(task, pid, out))
			continue;
		close(task->status_fd);
		if (task->stack_fd >= 0)
			close(task->stack_fd);
		atomic_store(&task->pid, 0);
	}
	return 0;
}

static struct source sources[NR_SOURCES] = {
	{ .name = "slab", .collect = collect_file, .paths = { "spl/kmem/slab" } },
	{ .name = "probe", .collect = collect_file, .paths = { "slabprobe" } },
	{ .name = "tasks", .collect = collect_tasks },
	{ .name = "meminfo", .slow = true, .collect = collect_file, .paths = { "meminfo" } },
	{ .name = "pressure", .slow = true, .collect = collect_pressure,
	  .paths = { "pressure/memory", "pressure/io", "pressure/cpu" } },
	{ .name = "vmstat", .slow = true, .collect = collect_file, .paths = { "vmstat" } },
};

/* With the lock held. */
static void push_error(struct frame f, int err, const char *before, const char *about)
{
	char buf[SHORT_LEN];
	struct text t = { .buf = buf, .size = sizeof(buf) };

	text_num(&t, "errno=", err);
	text_str(&t, before);
	text_str(&t, about);
	f.what = "error";
	f.payload = buf;
	f.len = t.len;
	ring_push(&f);
}

static void push_reading(struct source *src, struct frame *f, int err, const struct text *out)
{
	bool same = !err && src->has_last && out->len == src->last_len &&
		    !memcmp(src->bufs[0], src->bufs[1], out->len);

	ring_lock();
	if (err) {
		push_error(*f, err, " /proc/", src->failed);
	} else if (same) {
		f->what = "same";
		ring_push(f);
	} else {
		f->what = "data";
		f->payload = out->buf;
		f->len = out->len;
		/* Data that was lost is nothing to be the same as. */
		src->has_last = ring_push(f);
		src->last_len = out->len;
		src->cur = !src->cur;
	}
	if (!err && out->cut)
		push_error(*f, EFBIG, " cut at 65536 bytes: /proc/", src->failed);
	ring_unlock();
}

/* Returns the time when the reading was there. */
static uint64_t sample(struct source *src, uint64_t tick, uint64_t start)
{
	struct frame f = { .source = src->name, .tick = tick, .start_ns = start, .payload = "" };
	struct text out = { .buf = src->bufs[src->cur], .size = FILE_LEN };
	int err;

	src->tick = tick;
	atomic_store(&src->since_ns, start);
	err = src->collect(src, &out);
	/* In this order no blocked frame can claim a time past the end. */
	atomic_store(&src->since_ns, 0);
	f.end_ns = now_ns();
	push_reading(src, &f, err, &out);
	return f.end_ns;
}

static void *source_main(void *arg)
{
	struct source *src = arg;
	uint64_t every = src->slow ? settings.slow_every : 1;
	uint64_t tick = 0, now;

	wait_for_start();
	while (!stopping) {
		sleep_until(base_ns + tick * period_ns);
		now = now_ns();
		now = sample(src, last_due(now, every), now);
		tick = last_due(now, every) + every;
	}
	return NULL;
}

/* With the lock held: so the reading itself can only come after this frame. */
static void push_blocked(const struct source *src, uint64_t since, uint64_t now)
{
	struct frame f = { .source = src->name, .what = "blocked", .payload = "" };

	f.tick = src->tick;
	f.start_ns = since;
	f.end_ns = now;
	ring_push(&f);
}

/*
 * Comes a quarter of a period after each tick, when most readings are in the
 * ring: one wake-up of the writer, and of all that carries the stream on, then
 * serves them all.
 */
static void *keeper_main(void *arg)
{
	struct source *src;
	uint64_t tick = 0, now;

	wait_for_start();
	for (;;) {
		sleep_until(base_ns + tick * period_ns + period_ns / 4);
		ring_lock();
		now = now_ns();
		for (src = sources; src < sources + NR_SOURCES; src++) {
			uint64_t since = atomic_load(&src->since_ns);

			if (since && now > since + 2 * period_ns)
				push_blocked(src, since, now);
		}
		ring_flush();
		ring_unlock();
		tick = last_due(now, 1) + 1;
	}
	return arg;
}

void set_up_sources(void)
{
	static char bufs[NR_SOURCES][2][FILE_LEN];
	unsigned int i, k;

	memset(bufs, 1, sizeof(bufs));
	for (i = 0; i < NR_SOURCES; i++) {
		sources[i].bufs = bufs[i];
		for (k = 0; k < ARRAY_SIZE(sources[i].fds); k++)
			sources[i].fds[k] = -1;
	}
	find_tasks();
}

void start_sources(void)
{
	unsigned int i;

	start_thread(keeper_main, NULL);
	start_thread(finder_main, NULL);
	for (i = 0; i < NR_SOURCES; i++)
		start_thread(source_main, &sources[i]);
}
