// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The sampling agent: reads files of proc in the guest at a fixed rate and
 * streams them as frames to its standard output. The format is in
 * docs/formats.md, "The agent's stream".
 *
 * It has to go on while the guest is short of memory and partly stuck. So all
 * memory is there, touched and locked before the first tick, files are held
 * open, and a read that hangs stops no other one, for the very read may block
 * on the bug under test. No thread reads or writes a file while it holds the
 * ring's lock, the only one there is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define END_RESERVE	(3 * SHORT_LEN)	/* room in the ring for the last frame */
#define WRITE_LEN	(64 * 1024)	/* at most in one write, so that room comes free in steps */
#define THREAD_STACK	(64 * 1024)
#define COMMAND_LEN	200

struct settings settings = {
	.rate = 20, .slow_every = 10, .ring_kib = 4096, .root = "", .realtime = true,
};
uint64_t base_ns, period_ns;
int proc_fd;
atomic_bool stopping;
static pthread_barrier_t gate;

void die(const char *fmt, ...)
{
	int err = errno;
	va_list ap;

	fputs("agent: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(err));
	exit(1);
}

void text_put(struct text *t, const char *s, size_t n)
{
	if (t->cut || n > t->size - t->len) {
		t->cut = true;
		return;
	}
	memcpy(t->buf + t->len, s, n);
	t->len += n;
}

void text_str(struct text *t, const char *s)
{
	text_put(t, s, strlen(s));
}

void text_num(struct text *t, const char *before, uint64_t value)
{
	char digits[20];
	size_t at = sizeof(digits);

	text_str(t, before);
	do {
		digits[--at] = '0' + value % 10;
		value /= 10;
	} while (value);
	text_put(t, digits + at, sizeof(digits) - at);
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

void sleep_until(uint64_t ns)
{
	struct timespec ts = { .tv_sec = ns / NSEC_PER_SEC, .tv_nsec = ns % NSEC_PER_SEC };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

uint64_t last_due(uint64_t now, uint64_t every)
{
	uint64_t tick = (now - base_ns) / period_ns;

	return tick - tick % every;
}

/*
 * The ring holds whole frames between the threads that make them and the
 * writer. A frame that finds no room is lost, but its number is used up.
 */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t flush;
	char *buf;
	size_t size, tail, used;
	size_t reserve;	/* of the size, only for the last frame */
	uint64_t seq, dropped;
	bool wanted;	/* the writer is to empty the ring */
	bool closed;	/* the last frame is in */
} ring = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.flush = PTHREAD_COND_INITIALIZER,
	.reserve = END_RESERVE,
};

void ring_lock(void)
{
	pthread_mutex_lock(&ring.lock);
}

void ring_unlock(void)
{
	pthread_mutex_unlock(&ring.lock);
}

static void ring_copy(const char *s, size_t n)
{
	size_t head = (ring.tail + ring.used) % ring.size;
	size_t first = n < ring.size - head ? n : ring.size - head;

	memcpy(ring.buf + head, s, first);
	memcpy(ring.buf, s + first, n - first);
	ring.used += n;
}

void ring_flush(void)
{
	ring.wanted = true;
	pthread_cond_signal(&ring.flush);
}

bool ring_push(const struct frame *f)
{
	char buf[SHORT_LEN];
	struct text head = { .buf = buf, .size = sizeof(buf) };

	if (ring.closed)
		return false;
	text_num(&head, "F ", ring.seq++);
	text_num(&head, " ", f->tick);
	text_str(&head, " ");
	text_str(&head, f->source);
	text_str(&head, " ");
	text_str(&head, f->what);
	text_num(&head, " ", f->start_ns);
	text_num(&head, " ", f->end_ns);
	text_num(&head, " ", f->len);
	text_str(&head, "\n");
	if (head.len + f->len + 1 > ring.size - ring.reserve - ring.used) {
		ring.dropped++;
		return false;
	}
	ring_copy(buf, head.len);
	ring_copy(f->payload, f->len);
	ring_copy("\n", 1);
	if (ring.used > ring.size / 2)
		ring_flush();
	return true;
}

/*
 * Ends the process. The descriptors go first: a thread that cannot be killed
 * just now would keep them open, and the reader would wait for their end.
 */
static void __attribute__((noreturn)) leave(int status)
{
	close(STDOUT_FILENO);
	close(STDERR_FILENO);
	_exit(status);
}

/* After a failed read or write: whether to try again. Waits if the descriptor does not. */
static bool again(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	if (errno == EAGAIN)
		poll(&p, 1, -1);
	return errno == EAGAIN || errno == EINTR;
}

/* With the lock held, which is let go while it writes. */
static void ring_write(void)
{
	size_t n = ring.size - ring.tail;
	ssize_t done;

	if (n > ring.used)
		n = ring.used;
	if (n > WRITE_LEN)
		n = WRITE_LEN;
	ring_unlock();
	do
		done = write(STDOUT_FILENO, ring.buf + ring.tail, n);
	while (done < 0 && again(STDOUT_FILENO, POLLOUT));
	if (done < 0)
		leave(1);
	ring_lock();
	ring.tail = (ring.tail + done) % ring.size;
	ring.used -= done;
}

static void *writer_main(void *arg)
{
	ring_lock();
	for (;;) {
		while (!ring.wanted)
			pthread_cond_wait(&ring.flush, &ring.lock);
		while (ring.used)
			ring_write();
		ring.wanted = false;
		if (ring.closed)
			leave(0);
	}
	return arg;
}

/* For commands; held open. */
static int probe_fd = -1;

static bool open_probe(void)
{
	if (probe_fd < 0)
		probe_fd = openat(proc_fd, "slabprobe", O_WRONLY | O_CLOEXEC);
	return probe_fd >= 0;
}

static int probe_write(const char *command, size_t len)
{
	ssize_t done;

	if (len == 0 || len > COMMAND_LEN)
		return EINVAL;
	if (!open_probe())
		return errno;
	done = write(probe_fd, command, len);
	if (done < 0 && errno == EIO) {
		/* The module went away. If it is there again, it has a new file. */
		close(probe_fd);
		probe_fd = -1;
		if (!open_probe())
			return errno;
		done = write(probe_fd, command, len);
	}
	if (done < 0)
		return errno;
	return done == (ssize_t)len ? 0 : EIO;
}

/* False: the line ends the stream. */
static bool run_line(const char *line, size_t len)
{
	char buf[COMMAND_LEN + 32];
	struct text t = { .buf = buf, .size = sizeof(buf) };
	struct frame f = { .source = "ctl", .start_ns = now_ns(), .payload = buf };
	bool is_probe = len >= 6 && !memcmp(line, "probe ", 6);
	int err = EINVAL;

	if (len == 4 && !memcmp(line, "quit", 4))
		return false;
	if (is_probe) {
		line += 6;
		len -= 6;
		err = probe_write(line, len);
	}
	f.end_ns = now_ns();
	f.tick = last_due(f.start_ns, 1);
	f.what = err ? "error" : "data";
	if (err)
		text_num(&t, "errno=", err);
	text_str(&t, err ? " " : "ok ");
	text_put(&t, line, len < COMMAND_LEN ? len : COMMAND_LEN);
	f.len = t.len;
	ring_lock();
	ring_push(&f);
	ring_flush();
	ring_unlock();
	return true;
}

/* `quit` and the end of input reach the main thread as SIGTERM: one way to end. */
static void *command_main(void *arg)
{
	static char chunk[4096], line[COMMAND_LEN + 32];
	size_t len = 0;
	ssize_t n, i;

	wait_for_start();
	for (;;) {
		n = read(STDIN_FILENO, chunk, sizeof(chunk));
		if (n < 0 && again(STDIN_FILENO, POLLIN))
			continue;
		if (n <= 0)
			break;
		for (i = 0; i < n; i++) {
			/* A line that does not fit is too long anyhow. */
			if (chunk[i] != '\n' && len < sizeof(line))
				line[len++] = chunk[i];
			if (chunk[i] != '\n')
				continue;
			if (!run_line(line, len))
				goto out;
			len = 0;
		}
	}
out:
	kill(getpid(), SIGTERM);
	return arg;
}

/* The first and the last frame. */
static void push_agent(const struct text *t, uint64_t tick)
{
	struct frame f = { .source = "agent", .what = "data", .tick = tick };

	f.start_ns = f.end_ns = now_ns();
	f.payload = t->buf;
	f.len = t->len;
	ring_push(&f);
	ring_flush();
}

static void push_hello(void)
{
	char buf[SHORT_LEN];
	struct text t = { .buf = buf, .size = sizeof(buf) };

	text_num(&t, "hello version=", 1);
	text_num(&t, " rate_hz=", settings.rate);
	text_num(&t, " slow_every=", settings.slow_every);
	text_num(&t, " base_ns=", base_ns);
	text_num(&t, " period_ns=", period_ns);
	text_num(&t, " pid=", getpid());
	ring_lock();
	push_agent(&t, 0);
	ring_unlock();
}

static void push_end(void)
{
	char buf[SHORT_LEN];
	struct text t = { .buf = buf, .size = sizeof(buf) };

	stopping = true;
	ring_lock();
	ring.reserve = 0;
	text_num(&t, "end frames=", ring.seq);
	text_num(&t, " dropped=", ring.dropped);
	push_agent(&t, last_due(now_ns(), 1));
	ring.closed = true;
	ring_unlock();
}

static void set_up_ring(void)
{
	ring.size = settings.ring_kib * 1024 + END_RESERVE;
	ring.buf = malloc(ring.size);
	if (!ring.buf)
		die("ring of %lu KiB", settings.ring_kib);
	memset(ring.buf, 1, ring.size);
}

static void set_up_proc(void)
{
	char path[4096];
	int n = snprintf(path, sizeof(path), "%s/proc", settings.root);

	errno = ENAMETOOLONG;
	proc_fd = n < (int)sizeof(path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (proc_fd < 0)
		die("%s/proc", settings.root);
	open_probe();
}

static void set_up_realtime(void)
{
	struct sched_param param = { .sched_priority = 1 };
	int fd;

	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		die("mlockall");
	if (sched_setscheduler(0, SCHED_FIFO, &param))
		die("SCHED_FIFO");
	fd = openat(proc_fd, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "-1000", 5) != 5)
		die("oom_score_adj");
	close(fd);
}

void start_thread(void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	errno = pthread_attr_setstacksize(&attr, THREAD_STACK);
	if (!errno)
		errno = pthread_create(&thread, &attr, run, arg);
	if (errno)
		die("thread");
	pthread_attr_destroy(&attr);
}

void wait_for_start(void)
{
	pthread_barrier_wait(&gate);
}

static const char usage[] =
	"usage: agent [options]\n"
	"Streams samples of /proc; takes `probe COMMAND` and `quit` on standard input.\n"
	"  --rate HZ        ticks a second, 1 to 100 (20)\n"
	"  --slow-every N   meminfo, pressure and vmstat at every Nth tick (10)\n"
	"  --ring KIB       memory for frames that wait to be written (4096)\n"
	"  --root DIR       prefix of every path it opens (none)\n"
	"  --no-realtime    without locked memory, SCHED_FIFO and oom_score_adj\n"
	"  --help           this text\n";

static void __attribute__((noreturn)) misused(const char *why, const char *what)
{
	fprintf(stderr, "agent: %s%s\n%s", why, what, usage);
	exit(2);
}

static unsigned long number(const char *name, const char *arg, unsigned long max)
{
	char *end;
	unsigned long value = strtoul(arg, &end, 10);

	if (*arg < '0' || *arg > '9' || *end || value < 1 || value > max) {
		fprintf(stderr, "agent: --%s %s: a number from 1 to %lu is needed\n", name, arg, max);
		exit(2);
	}
	return value;
}

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "rate", required_argument, NULL, 'r' },
		{ "slow-every", required_argument, NULL, 's' },
		{ "ring", required_argument, NULL, 'b' },
		{ "root", required_argument, NULL, 'd' },
		{ "no-realtime", no_argument, NULL, 'n' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (c == 'r')
			settings.rate = number("rate", optarg, 100);
		else if (c == 's')
			settings.slow_every = number("slow-every", optarg, 1000000);
		else if (c == 'b')
			settings.ring_kib = number("ring", optarg, 1024 * 1024);
		else if (c == 'd')
			settings.root = optarg;
		else if (c == 'n')
			settings.realtime = false;
		else if (c == 'h')
			exit(fputs(usage, stdout) < 0 || fflush(stdout));
		else
			misused("valid options are below", "");
	}
	if (optind < argc)
		misused("takes no argument: ", argv[optind]);
}

int main(int argc, char **argv)
{
	sigset_t end;
	int sig;

	parse_options(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigprocmask(SIG_BLOCK, &end, NULL);
	set_up_ring();
	set_up_proc();
	set_up_sources();
	if (settings.realtime)
		set_up_realtime();
	period_ns = NSEC_PER_SEC / settings.rate;
	/* For this thread, the one for commands and the readers. */
	pthread_barrier_init(&gate, NULL, 2 + NR_READERS);
	start_thread(writer_main, NULL);
	start_thread(command_main, NULL);
	start_readers();
	base_ns = now_ns();
	push_hello();
	wait_for_start();
	start_sampling();
	while (sigwait(&end, &sig))
		;
	push_end();
	for (;;)
		pause();
}
