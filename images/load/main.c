// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The load generator: starts what its arguments name, holds each load at its
 * target, and reports the level that is really there, in a file that the agent
 * samples. The format is in docs/formats.md, "The load's status".
 *
 * Whoever holds and reports has to go on when the load has taken all memory:
 * its own is locked, its files are open, and the OOM killer leaves it alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define PERIOD_NS	(NSEC_PER_SEC / 20)
#define STATUS_LEN	4096

const char *root = "";

static const char *status_path = "/run/splvm-load";
static uint64_t seed = 1;
static bool realtime = true, foreground;

static struct load loads[MAX_LOADS];
static unsigned int nr_loads;
static struct levels levels;
static int status_fd;
static char new_status[4096];
static volatile sig_atomic_t stopping;

void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	fputs("splvm-load: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(err));
	exit(1);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

void nap(uint64_t ns)
{
	struct timespec ts = { .tv_sec = ns / NSEC_PER_SEC, .tv_nsec = ns % NSEC_PER_SEC };

	nanosleep(&ts, NULL);
}

static const char usage[] =
	"usage: splvm-load [options] LOAD:KEY=VALUE[,KEY=VALUE]... ...\n"
	"Starts each load, holds it at its target, and goes to the background.\n"
	"  --seed N        what its workers draw their random numbers from (1)\n"
	"  --status FILE   where it reports (/run/splvm-load)\n"
	"  --root DIR      prefix of the paths in /proc that it reads (none)\n"
	"  --no-realtime   without locked memory, SCHED_FIFO and oom_score_adj\n"
	"  --foreground    stays; SIGTERM ends it\n"
	"  --help          this text\n"
	"Loads, with their keys:\n";

static void put_usage(FILE *out)
{
	const struct kind *kind;
	unsigned int i;

	fputs(usage, out);
	for (kind = kinds; kind->name; kind++) {
		fprintf(out, "  %s:", kind->name);
		for (i = 0; i < MAX_VALUES && kind->keys[i]; i++)
			fprintf(out, "%s%s", i ? "," : "", kind->keys[i]);
		fputc('\n', out);
	}
}

static void __attribute__((noreturn, format(printf, 1, 2))) misused(const char *fmt, ...)
{
	va_list ap;

	fputs("splvm-load: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	put_usage(stderr);
	exit(2);
}

static int key_index(const struct kind *kind, const char *key)
{
	int i;

	for (i = 0; i < MAX_VALUES && kind->keys[i]; i++)
		if (!strcmp(kind->keys[i], key))
			return i;
	return -1;
}

const char *text_of(const struct load *load, const char *key)
{
	return load->values[key_index(load->kind, key)];
}

long number_of(const struct load *load, const char *key)
{
	const char *text = text_of(load, key);
	char *end;
	long value = strtol(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || value < 1 || value > 1L << 24)
		misused("%s: %s=%s: a number from 1 is needed", load->kind->name, key, text);
	return value;
}

/* Takes the argument apart where it is. */
static void add_load(char *arg)
{
	struct load *load = &loads[nr_loads];
	char *name = strsep(&arg, ":"), *pair;
	int i;

	if (nr_loads++ == MAX_LOADS)
		misused("more than %d loads", MAX_LOADS);
	for (load->kind = kinds; load->kind->name && strcmp(load->kind->name, name); load->kind++)
		;
	if (!load->kind->name)
		misused("%s: there is no such load", name);
	while ((pair = strsep(&arg, ","))) {
		char *key = strsep(&pair, "=");

		i = key_index(load->kind, key);
		if (i < 0 || !pair || !*pair)
			misused("%s: %s: not one of its keys, or without a value", name, key);
		load->values[i] = pair;
	}
	for (i = 0; i < MAX_VALUES && load->kind->keys[i]; i++)
		if (!load->values[i])
			misused("%s: %s is missing", name, load->kind->keys[i]);
}

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "status", required_argument, NULL, 'f' },
		{ "root", required_argument, NULL, 'd' },
		{ "no-realtime", no_argument, NULL, 'n' },
		{ "foreground", no_argument, NULL, 'F' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 's') {
			seed = strtoull(optarg, &end, 10);
			if (*optarg < '0' || *optarg > '9' || *end)
				misused("--seed %s: a number is needed", optarg);
		} else if (c == 'f') {
			status_path = optarg;
		} else if (c == 'd') {
			root = optarg;
		} else if (c == 'n') {
			realtime = false;
		} else if (c == 'F') {
			foreground = true;
		} else if (c == 'h') {
			put_usage(stdout);
			exit(0);
		} else {
			misused("valid options are below");
		}
	}
	if (optind == argc)
		misused("no load is named");
	while (optind < argc)
		add_load(argv[optind++]);
}

static void set_up_realtime(void)
{
	struct sched_param param = { .sched_priority = 1 };
	int fd;

	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		die("mlockall");
	if (sched_setscheduler(0, SCHED_FIFO, &param))
		die("SCHED_FIFO");
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "-1000", 5) != 5)
		die("oom_score_adj");
	close(fd);
}

static void start_load(struct load *load)
{
	size_t len = MAX_WORKERS * sizeof(struct worker);
	unsigned int i;

	load->workers = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (load->workers == MAP_FAILED)
		die("memory for workers");
	for (i = 0; i < MAX_WORKERS; i++)
		/* No two workers of a seed draw the same, and no state is 0. */
		load->workers[i].seed = (seed * MAX_LOADS + (load - loads)) * MAX_WORKERS + i + 1;
	load->kind->start(load);
}

static void reap(void)
{
	unsigned int l, w;
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (l = 0; l < nr_loads; l++)
			for (w = 0; w < loads[l].nr_workers; w++)
				if (loads[l].workers[w].pid == pid) {
					loads[l].workers[w].status = status;
					loads[l].workers[w].ended = true;
				}
}

static int put_load(char *at, size_t room, const struct load *load)
{
	int n = snprintf(at, room, "load %s unit=%s low=%ld high=%ld level=%ld since_ns=%llu",
			 load->kind->name, load->kind->unit, load->low, load->high, load->level,
			 (unsigned long long)load->since_ns);

	if (load->kind->works)
		n += snprintf(at + n, room - n, " done_kib=%llu", (unsigned long long)load->done);
	n += snprintf(at + n, room - n, "\n");
	return n;
}

static int put_worker(char *at, size_t room, const struct load *load, unsigned int index)
{
	const struct worker *worker = &load->workers[index];
	bool killed = worker->ended && WIFSIGNALED(worker->status);

	return snprintf(at, room, "worker %s %u role=%s pid=%d alive=%d signal=%d status=%d bytes=%llu beat_ns=%llu\n",
			load->kind->name, index, worker->role, worker->pid, !worker->ended,
			killed ? WTERMSIG(worker->status) : 0,
			worker->ended && !killed ? WEXITSTATUS(worker->status) : 0,
			(unsigned long long)worker->bytes, (unsigned long long)worker->beat_ns);
}

static unsigned long long micros(struct timeval time)
{
	return time.tv_sec * 1000000ULL + time.tv_usec;
}

/*
 * A reader may see the beginning of one report and the end of another; the same
 * number stands at both ends of one. None is shorter than the one before it, for
 * what would be left of that.
 */
static void report(uint64_t now)
{
	static char text[STATUS_LEN];
	static unsigned long seq;
	static int longest;
	size_t room = sizeof(text);
	struct rusage used;
	unsigned int l, w;
	int n;

	getrusage(RUSAGE_SELF, &used);
	n = snprintf(text, room, "splvm-load 1\nat seq=%lu now_ns=%llu cpu_us=%llu\n", ++seq,
		     (unsigned long long)now, micros(used.ru_utime) + micros(used.ru_stime));
	n += snprintf(text + n, room - n,
		      "memory total=%ld available=%ld free=%ld dirty=%ld writeback=%ld written=%llu swap=%ld scanned=%llu scanned_direct=%llu some_us=%llu full_us=%llu oom_kills=%llu\n",
		      levels.total, levels.available, levels.free, levels.dirty, levels.writeback,
		      (unsigned long long)levels.written, levels.swap_used, (unsigned long long)levels.scanned,
		      (unsigned long long)levels.scanned_direct, (unsigned long long)levels.some_us,
		      (unsigned long long)levels.full_us, (unsigned long long)levels.oom_kills);
	for (l = 0; l < nr_loads; l++) {
		n += put_load(text + n, room - n, &loads[l]);
		for (w = 0; w < loads[l].nr_workers; w++)
			n += put_worker(text + n, room - n, &loads[l], w);
	}
	n += snprintf(text + n, room - n, "end seq=%lu", seq);
	n += snprintf(text + n, room - n, "%*s\n", longest > n + 1 ? longest - n - 1 : 0, "");
	longest = n;
	if (n >= (int)room || pwrite(status_fd, text, n, 0) != n)
		die("%s", status_path);
}

static void steer(void)
{
	uint64_t now;
	unsigned int l;

	read_levels(&levels);
	now = now_ns();
	reap();
	for (l = 0; l < nr_loads; l++) {
		struct load *load = &loads[l];

		load->kind->steer(load, &levels);
		if (load->level < load->low || load->level > load->high)
			load->since_ns = 0;
		else if (!load->since_ns)
			load->since_ns = now;
	}
	report(now);
}

/* It gets its name when something is in it. */
static void open_status(void)
{
	snprintf(new_status, sizeof(new_status), "%s.new", status_path);
	status_fd = open(new_status, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (status_fd < 0)
		die("%s", new_status);
}

static void end(int sig)
{
	stopping = sig;
}

static void hold(void)
{
	struct sigaction action = { .sa_handler = end };
	uint64_t due = now_ns();

	sigaction(SIGTERM, &action, NULL);
	while (!stopping) {
		uint64_t now = now_ns();

		steer();
		due = due + PERIOD_NS > now ? due + PERIOD_NS : now + PERIOD_NS;
		now = now_ns();
		if (due > now)
			nap(due - now);
	}
}

/* Comes back in a process that nobody waits for; the one that was started ends when all is under way, or failed. */
static void detach(int *ready)
{
	int ends[2];
	char byte;
	pid_t child;
	int status;

	if (pipe2(ends, O_CLOEXEC))
		die("pipe");
	child = fork();
	if (child < 0)
		die("fork");
	if (child) {
		close(ends[1]);
		if (read(ends[0], &byte, 1) == 1)
			_exit(0);
		_exit(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) ?
		      WEXITSTATUS(status) : 1);
	}
	close(ends[0]);
	setsid();
	*ready = ends[1];
}

static void let_go(int ready)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	if (null > STDERR_FILENO)
		close(null);
	if (write(ready, "", 1) != 1)
		_exit(1);
	close(ready);
}

int main(int argc, char **argv)
{
	unsigned int l;
	int ready = -1;

	parse_options(argc, argv);
	if (!foreground)
		detach(&ready);
	set_up_levels();
	open_status();
	if (realtime)
		set_up_realtime();
	read_levels(&levels);
	for (l = 0; l < nr_loads; l++)
		start_load(&loads[l]);
	steer();
	if (rename(new_status, status_path))
		die("%s", status_path);
	if (!foreground)
		let_go(ready);
	hold();
	return 0;
}
