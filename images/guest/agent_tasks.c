// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The tasks of the agent's stream: which there are, their states and stacks.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define MAX_TASKS	64
#define MAX_STACK_LINES	32
#define MAX_OTHERS	4096
#define KTHREADD	2	/* its number; kernel/fork.c makes it second of all */
#define TASK_TEXT	2048	/* a longer one is read anew each time */

enum task_file { STATUS, STACK, STAT, SCHEDSTAT, NR_TASK_FILES };

static const char * const task_files[NR_TASK_FILES] = {
	"/status", "/stack", "/stat", "/schedstat",
};

/*
 * The tasks of interest. find_tasks() fills a free slot and then sets its pid;
 * put_tasks() reads slots with a pid and frees those whose task is gone.
 */
struct task {
	atomic_int pid;			/* 0: the slot is free */
	int fds[NR_TASK_FILES];		/* or -errno */
	char comm[32];
	/* What is known of it. */
	char runs[64];			/* its schedstat at the last tick */
	ssize_t runs_len;
	bool kept;			/* the rest tells how it stands since */
	char state;
	size_t text_len;
	char text[TASK_TEXT];
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
	for (i = 0; i < NR_TASK_FILES; i++)
		task->fds[i] = open_task(pid, task_files[i]);
	task->runs_len = 0;
	task->kept = false;
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
static bool is_other(int pid, bool *unnamed)
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
	if (strcmp(comm, "kthreadd"))
		return true;
	*unnamed |= pid != KTHREADD;
	return false;
}

/*
 * Only tasks that were not there at the last scan are opened. proc lists them
 * by rising number, so that one pass over the last scan's numbers is enough; in
 * another order, some are merely opened again.
 */
bool find_tasks(void)
{
	static _Alignas(struct dirent64) char buf[8192];
	static int others[2][MAX_OTHERS];
	static unsigned int count[2], old;
	unsigned int k = 0, new = !old;
	bool unnamed = false;
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
			if ((k < count[old] && others[old][k] == pid) || is_other(pid, &unnamed))
				if (count[new] < MAX_OTHERS)
					others[new][count[new]++] = pid;
		}
	}
	old = new;
	return unnamed;
}

static const char *after(const char *text, const char *key)
{
	const char *at = text ? strstr(text, key) : NULL;

	return at ? at + strlen(key) : NULL;
}

static bool read_switches(int fd, struct switches *s)
{
	static char buf[4096];	/* only one thread comes here at a time */
	ssize_t n = pread(fd, buf, sizeof(buf) - 1, 0);
	const char *state, *voluntary, *nonvoluntary;

	if (n <= 0)
		return false;
	buf[n] = '\0';
	state = after(buf, "\nState:\t");
	voluntary = after(state, "\nvoluntary_ctxt_switches:\t");
	nonvoluntary = after(voluntary, "\nnonvoluntary_ctxt_switches:\t");
	if (!nonvoluntary)
		return false;
	s->state = *state;
	s->voluntary = strtoull(voluntary, NULL, 10);
	s->nonvoluntary = strtoull(nonvoluntary, NULL, 10);
	return true;
}

/* The number with which a text begins, put behind a word; nothing if it begins with none. */
static void put_number(struct text *out, const char *word, const char *digits)
{
	if (*digits < '0' || *digits > '9')
		return;
	text_num(out, word, strtoull(digits, NULL, 10));
}

/*
 * The marks of the task: the ninth field of stat, six behind the state
 * (do_task_stat(), fs/proc/array.c).
 */
static void put_flags(struct text *out, int fd)
{
	char stat[192];
	ssize_t n = fd < 0 ? -1 : pread(fd, stat, sizeof(stat) - 1, 0);
	const char *at;
	unsigned int i;

	if (n <= 0)
		return;
	stat[n] = '\0';
	at = strrchr(stat, ')');
	for (i = 0; at && i < 7; i++)
		at = after(at, " ");
	if (at)
		put_number(out, " flags=", at);
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
 * Reads all of a task. The counters are read on both sides of the stack: only if
 * they agree does the stack belong to one and the same sleep. False: it is gone.
 */
static bool read_task(struct task *task, int pid, struct text *out)
{
	static char stack[8192];
	struct switches before, after;
	ssize_t len = task->fds[STACK];

	if (!read_switches(task->fds[STATUS], &before))
		return false;
	after = before;
	if (before.state == 'R') {
		/* It is on a CPU, or about to be: it has no stack that would stand still to be read. */
		len = 0;
	} else {
		if (len >= 0)
			len = pread(task->fds[STACK], stack, sizeof(stack), 0);
		if (len < 0 && task->fds[STACK] >= 0)
			len = -errno;
		if (!read_switches(task->fds[STATUS], &after))
			return false;
	}
	task->state = after.state;
	text_num(out, "task pid=", pid);
	text_str(out, " comm=");
	text_str(out, task->comm);
	text_str(out, " state=");
	text_put(out, &after.state, 1);
	text_num(out, " voluntary=", after.voluntary);
	text_num(out, " nonvoluntary=", after.nonvoluntary);
	put_flags(out, task->fds[STAT]);
	/* It was read before all else of the task. */
	put_number(out, " run_ns=", task->runs);
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

/*
 * True: the task has not been on a CPU since the last tick. schedstat has the
 * time it ran and how often it was given a CPU; both change at once when it
 * runs. A kernel that does not count has zeros there.
 */
static bool has_rested(struct task *task)
{
	char runs[sizeof(task->runs)];
	ssize_t len = -1;
	bool rested;

	if (task->fds[SCHEDSTAT] >= 0)
		len = pread(task->fds[SCHEDSTAT], runs, sizeof(runs) - 1, 0);
	if (len <= 0 || len == sizeof(runs) - 1)
		len = 0;
	rested = len && runs[0] != '0' && len == task->runs_len && !memcmp(runs, task->runs, len);
	memcpy(task->runs, runs, len);
	task->runs[len] = '\0';
	task->runs_len = len;
	return rested;
}

static bool has_state(const struct task *task)
{
	char stat[128];
	ssize_t n = -1;
	const char *name_end;

	if (task->fds[STAT] >= 0)
		n = pread(task->fds[STAT], stat, sizeof(stat), 0);
	if (n <= 0)
		return false;
	name_end = memrchr(stat, ')', n);
	return name_end && stat + n - name_end > 2 && name_end[2] == task->state;
}

/*
 * A task that was off the CPU when it was read, and has been since, still has
 * the stack and the counters that it had. They are not read again, for to read
 * a stack costs most of all and allocates memory, which a task that hangs is
 * likely to be waiting for. False: the task is gone.
 */
static bool put_task(struct task *task, int pid, struct text *out)
{
	bool rested = has_rested(task);
	size_t start = out->len;

	if (rested && task->kept && has_state(task)) {
		text_put(out, task->text, task->text_len);
		return true;
	}
	if (!read_task(task, pid, out))
		return false;
	task->text_len = out->len - start;
	task->kept = rested && !out->cut && task->text_len <= sizeof(task->text);
	if (task->kept)
		memcpy(task->text, out->buf + start, task->text_len);
	return true;
}

void put_tasks(struct text *out)
{
	unsigned int i, k;

	for (i = 0; i < MAX_TASKS; i++) {
		struct task *task = &tasks[i];
		int pid = atomic_load(&task->pid);

		if (!pid || put_task(task, pid, out))
			continue;
		for (k = 0; k < NR_TASK_FILES; k++)
			if (task->fds[k] >= 0)
				close(task->fds[k]);
		atomic_store(&task->pid, 0);
	}
}
