// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The sources of the agent's stream: what they read, and when.
 *
 * One thread leads: it wakes at each tick and reads all that is due, one source
 * after the other. If it has not come through half a period later, it hangs in
 * a read, and one of the others, who have waited for that, takes the lead. The
 * source that hangs is left to the thread that hangs in it. There are as many
 * threads as can hang, and one more to lead. In a guest without hardware
 * acceleration this costs less than half of a thread for each source that wakes
 * by itself.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "agent.h"

#define FILE_LEN	(64 * 1024)	/* of one reading; more is cut */
#define FLUSH_NS	(NSEC_PER_SEC / 4)	/* between two writes, at least */
#define PROMPT_NS	(NSEC_PER_SEC * 6 / 10)	/* after a command, each tick is written */

struct source {
	const char *name;	/* NULL: what it does gives no frames */
	unsigned int times;	/* of slow_every; 0: at every tick */
	unsigned int most_hz;	/* and at most so often; 0: as often as there are ticks */
	bool optional;		/* nothing is said of a file that is not there */
	int (*collect)(struct source *src, struct text *out);	/* 0 or an errno */
	const char *paths[3];	/* below /proc */
	int fds[3];		/* -1: to be opened at the next due tick */
	const char *failed;	/* the path that the last error is about */
	char (*bufs)[FILE_LEN];	/* [cur] for the next reading, the other: the last data */
	unsigned int cur;
	size_t last_len;
	bool has_last;
	/* The rest under the ring's lock. A source is read by one thread at a time. */
	uint64_t due;		/* the next tick that it may serve */
	uint64_t since_ns;	/* when the read under way began; 0: none */
	uint64_t tick;		/* of that read */
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

static int collect_tasks(struct source *src, struct text *out)
{
	src->failed = "tasks";
	put_tasks(out);
	return 0;
}

/*
 * Not done by `tasks` itself: a look into a new directory of proc allocates, and
 * may wait for the very reclaim that `tasks` is to show. To list all tasks costs
 * more than to read which number was given last, so that this tells whether
 * there may be new ones.
 */
static int collect_names(struct source *src, struct text *out)
{
	static char last[16];
	static uint64_t scan_due;
	static bool unnamed;
	uint64_t tick = last_due(now_ns(), 1);
	char *word;

	if (read_path(src, 0, out) || out->len < 2)
		out->len = 0;
	out->buf[out->len ? out->len - 1 : 0] = '\0';
	word = strrchr(out->buf, ' ');
	word = word && strlen(word) < sizeof(last) ? word : "";
	if (!unnamed && tick < scan_due && !strcmp(word, last))
		return 0;
	strcpy(last, word);
	scan_due = tick + settings.slow_every;
	unnamed = find_tasks();
	return 0;
}

/* Read in this order: the ones that hang more easily come later. */
static struct source sources[NR_SOURCES] = {
	/* Stacks cost more than all the rest, and those that count do not change. */
	{ .name = "tasks", .most_hz = 20, .collect = collect_tasks },
	{ .name = "probe", .collect = collect_file, .paths = { "slabprobe" } },
	{ .name = "slab", .collect = collect_file, .paths = { "spl/kmem/slab" } },
	/* Of a probe that was told to watch the allocator; it is long. */
	{ .name = "sites", .times = 2, .optional = true, .collect = collect_file,
	  .paths = { "slabprobe_sites" } },
	/* Not of proc: the generator of loads writes it, if there is one. */
	{ .name = "load", .most_hz = 20, .optional = true, .collect = collect_file,
	  .paths = { "../run/splvm-load" } },
	/* Of the pool that the harness makes, if it does. */
	{ .name = "txgs", .most_hz = 20, .optional = true, .collect = collect_file,
	  .paths = { "spl/kstat/zfs/tank/txgs" } },
	{ .name = "poolstate", .times = 1, .optional = true, .collect = collect_file,
	  .paths = { "spl/kstat/zfs/tank/state" } },
	{ .name = "meminfo", .times = 1, .collect = collect_file, .paths = { "meminfo" } },
	{ .name = "pressure", .times = 1, .collect = collect_pressure,
	  .paths = { "pressure/memory", "pressure/io", "pressure/cpu" } },
	{ .name = "vmstat", .times = 1, .collect = collect_file, .paths = { "vmstat" } },
	{ .most_hz = 20, .collect = collect_names, .paths = { "loadavg" } },
	/* The number of all tasks is in it; of interest beside a list of them. */
	{ .name = "loadavg", .times = 1, .collect = collect_file, .paths = { "loadavg" } },
	/* These take locks that reclaim takes as well. */
	{ .name = "slabinfo", .times = 4, .optional = true, .collect = collect_file,
	  .paths = { "slabinfo" } },
	{ .name = "arcstats", .times = 4, .optional = true, .collect = collect_file,
	  .paths = { "spl/kstat/zfs/arcstats" } },
};

static uint64_t leader;		/* under the ring's lock: how often the lead was taken */
/* Under the ring's lock: a tick, and a time. */
static uint64_t flush_due, prompt_until;
static int watch_fd;		/* a timer that goes off when the leader hangs */

static uint64_t every(const struct source *src)
{
	if (src->times)
		return src->times * settings.slow_every;
	return src->most_hz ? (settings.rate + src->most_hz - 1) / src->most_hz : 1;
}

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

/* With the lock held. */
static void push_reading(struct source *src, struct frame *f, int err, const struct text *out)
{
	if (err == ENOENT && src->optional)
		return;
	if (err) {
		push_error(*f, err, " /proc/", src->failed);
		return;
	}
	if (strcmp(f->what, "data")) {
		ring_push(f);
	} else {
		f->payload = out->buf;
		f->len = out->len;
		/* Data that was lost is nothing to be the same as. */
		src->has_last = ring_push(f);
		src->last_len = out->len;
		src->cur = !src->cur;
	}
	if (out->cut)
		push_error(*f, EFBIG, " cut at 65536 bytes: /proc/", src->failed);
}

/* True: the source is due and free, and now this thread's to read. */
static bool claim(struct source *src, uint64_t lead, uint64_t tick)
{
	bool ours;

	ring_lock();
	ours = lead == leader && !stopping && !src->since_ns && src->due <= tick;
	if (ours) {
		src->since_ns = now_ns();
		src->tick = last_due(src->since_ns, every(src));
	}
	ring_unlock();
	return ours;
}

static void sample(struct source *src)
{
	struct frame f = { .source = src->name, .what = "data", .payload = "" };
	struct text out = { .buf = src->bufs[src->cur], .size = FILE_LEN };
	int err = src->collect(src, &out);

	if (src->has_last && out.len == src->last_len && !memcmp(src->bufs[0], src->bufs[1], out.len))
		f.what = "same";
	ring_lock();
	/* With the lock held, so that no blocked frame can come after the reading or end later. */
	f.end_ns = now_ns();
	f.start_ns = src->since_ns;
	f.tick = src->tick;
	src->since_ns = 0;
	src->due = f.tick + every(src);
	/* What is not there is not asked for all the time. */
	if (err == ENOENT && src->optional && src->due < f.tick + settings.slow_every)
		src->due = f.tick + settings.slow_every;
	if (src->name)
		push_reading(src, &f, err, &out);
	ring_unlock();
}

/* With the lock held. */
static void push_blocked(uint64_t now)
{
	struct frame f = { .what = "blocked", .end_ns = now, .payload = "" };
	const struct source *src;

	for (src = sources; src < sources + NR_SOURCES; src++) {
		if (!src->name || !src->since_ns || now <= src->since_ns + 2 * period_ns)
			continue;
		f.source = src->name;
		f.tick = src->tick;
		f.start_ns = src->since_ns;
		ring_push(&f);
	}
}

/* With the lock held: has another thread take the lead at this time, if none moves it on. */
static void watch(uint64_t ns)
{
	struct itimerspec at = {
		.it_value = { .tv_sec = ns / NSEC_PER_SEC, .tv_nsec = ns % NSEC_PER_SEC },
	};

	timerfd_settime(watch_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static uint64_t take_lead(void)
{
	uint64_t times, lead;

	while (read(watch_fd, &times, sizeof(times)) != sizeof(times))
		;
	ring_lock();
	lead = ++leader;
	watch(now_ns() + period_ns / 2);
	ring_unlock();
	return lead;
}

void be_prompt(uint64_t now)
{
	prompt_until = now + PROMPT_NS;
}

/* Gives the next tick; 0: another thread has the lead. */
static uint64_t end_tick(uint64_t lead)
{
	uint64_t now, tick = 0;

	ring_lock();
	if (lead == leader) {
		now = now_ns();
		push_blocked(now);
		tick = last_due(now, 1) + 1;
		watch(base_ns + tick * period_ns + period_ns / 2);
		/*
		 * Whatever carries the stream on wakes for each write, which costs more than
		 * the reading. After a command somebody waits for what comes of it, and in
		 * lock-step always.
		 */
		if (tick > flush_due || now < prompt_until || settings.bell) {
			ring_flush();
			flush_due = tick - 1 + (FLUSH_NS + period_ns - 1) / period_ns;
		}
	}
	ring_unlock();
	return tick;
}

static void *reader_main(void *arg)
{
	struct source *src;
	uint64_t lead, tick;

	wait_for_start();
	for (;;) {
		lead = take_lead();
		do {
			tick = last_due(now_ns(), 1);
			for (src = sources; src < sources + NR_SOURCES; src++)
				if (claim(src, lead, tick))
					sample(src);
			tick = end_tick(lead);
			if (tick)
				sleep_until(base_ns + tick * period_ns);
		} while (tick);
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
	watch_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
	if (watch_fd < 0)
		die("timer");
	(void)find_tasks();
}

void open_sources(void)
{
	struct source *src;
	unsigned int k;

	for (src = sources; src < sources + NR_SOURCES; src++)
		for (k = 0; k < ARRAY_SIZE(src->fds) && src->paths[k]; k++)
			src->fds[k] = openat(proc_fd, src->paths[k], O_RDONLY | O_CLOEXEC);
}

void start_readers(void)
{
	unsigned int i;

	for (i = 0; i < NR_READERS; i++)
		start_thread(reader_main, NULL);
}

void start_sampling(void)
{
	ring_lock();
	watch(base_ns);
	ring_unlock();
}
