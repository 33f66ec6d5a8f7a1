// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The sampling agent: reads files of proc in the guest at a fixed rate and
 * streams them as frames to its standard output, and to a port if there is one.
 * The format is in docs/formats.md, "The agent's stream".
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
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define THREAD_STACK	(64 * 1024)
#define COMMAND_LEN	200	/* for the probe, and of what an answer repeats */
#define LINE_LEN	4096
#define MAX_INPUTS	2
/* A pipe takes what it is given in pages, a port of virtio-serial in one piece. */
#define PIPE_CHUNK	(16 * 1024)
#define PORT_CHUNK	4096

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
 * Where commands come from, one for each path to the host. Each has its own
 * descriptor of the probe, held open.
 */
struct input {
	int fd, probe_fd;
	size_t len;
	char line[LINE_LEN];
};

static struct input inputs[MAX_INPUTS];
static unsigned int nr_inputs;
static atomic_uint open_inputs;

static bool open_probe(struct input *in)
{
	if (in->probe_fd < 0)
		in->probe_fd = openat(proc_fd, "slabprobe", O_WRONLY | O_CLOEXEC);
	return in->probe_fd >= 0;
}

static int probe_write(struct input *in, const char *command, size_t len)
{
	ssize_t done;

	if (len == 0 || len > COMMAND_LEN)
		return EINVAL;
	if (!open_probe(in))
		return errno;
	done = write(in->probe_fd, command, len);
	if (done < 0 && errno == EIO) {
		/* The module went away. If it is there again, it has a new file. */
		close(in->probe_fd);
		in->probe_fd = -1;
		if (!open_probe(in))
			return errno;
		done = write(in->probe_fd, command, len);
	}
	if (done < 0)
		return errno;
	return done == (ssize_t)len ? 0 : EIO;
}

/*
 * The host sends a command with a number by every path that it has. Whichever
 * brings it first is the one that counts. False: it has been seen.
 */
static bool is_news(unsigned long number)
{
	static atomic_ulong last;
	unsigned long seen = last;

	while (number > seen)
		if (atomic_compare_exchange_weak(&last, &seen, number))
			return true;
	return false;
}

/* Length of `#NUMBER ` at the start of a line; 0 if there is none. */
static size_t number_of(const char *line, size_t len, unsigned long *number)
{
	size_t at = 1;

	*number = 0;
	if (!len || line[0] != '#')
		return 0;
	while (at < len && at < 18 && line[at] >= '0' && line[at] <= '9')
		*number = *number * 10 + (line[at++] - '0');
	return at > 1 && at < len && line[at] == ' ' ? at + 1 : 0;
}

static void answer(uint64_t start_ns, int err, const char *line, size_t number_len, size_t skip, size_t len)
{
	char buf[COMMAND_LEN + 64];
	struct text t = { .buf = buf, .size = sizeof(buf) };
	struct frame f = { .source = "ctl", .start_ns = start_ns, .payload = buf };

	f.end_ns = now_ns();
	f.tick = last_due(f.start_ns, 1);
	f.what = err ? "error" : "data";
	if (err)
		text_num(&t, "errno=", err);
	text_str(&t, err ? " " : "ok ");
	text_put(&t, line, number_len);
	text_put(&t, line + skip, len - skip < COMMAND_LEN ? len - skip : COMMAND_LEN);
	f.len = t.len;
	ring_lock();
	ring_push(&f);
	ring_flush();
	be_prompt(f.end_ns);
	ring_unlock();
}

/* Has the kernel list on the console what this key of SysRq stands for. */
static int ask_sysrq(const char *key, size_t len)
{
	int fd = len == 1 ? openat(proc_fd, "sysrq-trigger", O_WRONLY | O_CLOEXEC) : -1;
	int err = 0;

	if (fd < 0)
		return len == 1 ? errno : EINVAL;
	if (write(fd, key, 1) != 1)
		err = errno;
	close(fd);
	return err;
}

/* False: the line ends the stream. */
static bool run_line(struct input *in)
{
	uint64_t start_ns = now_ns();
	unsigned long number;
	size_t skip = number_of(in->line, in->len, &number);
	size_t number_len = skip;
	int err = EINVAL;

	if (in->len == 4 && !memcmp(in->line, "quit", 4))
		return false;
	if (skip && !is_news(number))
		return true;
	if (in->len >= skip + 6 && !memcmp(in->line + skip, "probe ", 6)) {
		skip += 6;
		err = probe_write(in, in->line + skip, in->len - skip);
	} else if (in->len >= skip + 6 && !memcmp(in->line + skip, "sysrq ", 6)) {
		skip += 6;
		err = ask_sysrq(in->line + skip, in->len - skip);
	} else if (in->len >= skip + 4 && !memcmp(in->line + skip, "run ", 4)) {
		skip += 4;
		err = E2BIG;
		if (in->len < sizeof(in->line)) {
			in->line[in->len] = '\0';
			err = run_shell(in->line + skip);
		}
	}
	answer(start_ns, err, in->line, number_len, skip, in->len);
	return true;
}

/* `quit` and the end of all input reach the main thread as SIGTERM: one way to end. */
static void *command_main(void *arg)
{
	struct input *in = arg;
	char chunk[4096];
	ssize_t n, i;

	wait_for_start();
	for (;;) {
		n = read(in->fd, chunk, sizeof(chunk));
		if (n < 0 && again(in->fd, POLLIN))
			continue;
		if (n <= 0)
			break;
		for (i = 0; i < n; i++) {
			/* A line that does not fit is too long anyhow. */
			if (chunk[i] != '\n' && in->len < sizeof(in->line))
				in->line[in->len++] = chunk[i];
			if (chunk[i] != '\n')
				continue;
			if (!run_line(in))
				goto out;
			in->len = 0;
		}
	}
	if (atomic_fetch_sub(&open_inputs, 1) > 1)
		return arg;
out:
	kill(getpid(), SIGTERM);
	return arg;
}

static void add_input(int fd)
{
	struct input *in = &inputs[nr_inputs++];

	in->fd = fd;
	in->probe_fd = -1;
	open_inputs++;
	open_probe(in);
}

/* The second path. One that cannot be had is said, and the first goes on alone: -1. */
static int set_up_port(void)
{
	int fd;

	if (!settings.port)
		return -1;
	fd = open(settings.port, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (fd < 0) {
		fprintf(stderr, "agent: %s: %s\n", settings.port, strerror(errno));
		return -1;
	}
	ring_add_output(fd, PORT_CHUNK, write);
	add_input(fd);
	return fd;
}

/* The first and the last frame. */
static struct frame agent_frame(const struct text *t, uint64_t tick)
{
	struct frame f = { .source = "agent", .what = "data", .tick = tick };

	f.start_ns = f.end_ns = now_ns();
	f.payload = t->buf;
	f.len = t->len;
	return f;
}

static void push_hello(void)
{
	char buf[SHORT_LEN];
	struct text t = { .buf = buf, .size = sizeof(buf) };
	struct frame f;

	text_num(&t, "hello version=", 2);
	text_num(&t, " rate_hz=", settings.rate);
	text_num(&t, " slow_every=", settings.slow_every);
	text_num(&t, " base_ns=", base_ns);
	text_num(&t, " period_ns=", period_ns);
	text_num(&t, " pid=", getpid());
	f = agent_frame(&t, 0);
	ring_lock();
	ring_push(&f);
	ring_flush();
	ring_unlock();
}

static void push_end(void)
{
	char buf[SHORT_LEN];
	struct text t = { .buf = buf, .size = sizeof(buf) };
	struct frame f;

	stopping = true;
	ring_lock();
	ring_stamp(&t, "end frames=");
	f = agent_frame(&t, last_due(now_ns(), 1));
	ring_close(&f);
	ring_unlock();
}

/* What is opened later must not get the number of a standard stream that was closed. */
static void set_up_streams(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	while (fd >= 0 && fd <= STDERR_FILENO);
	close(fd);
}

static void set_up_proc(void)
{
	char path[4096];
	int n = snprintf(path, sizeof(path), "%s/proc", settings.root);

	errno = ENAMETOOLONG;
	proc_fd = n < (int)sizeof(path) ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (proc_fd < 0)
		die("%s/proc", settings.root);
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
	/*
	 * What the kernel allocates on our behalf, such as a buffer for a write to
	 * the port, does not wait for a filesystem or a block device, for those may
	 * be what is stuck. Threads inherit it. A kernel before 5.6 cannot.
	 */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
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
	"Streams samples of /proc; takes `[#N ]probe COMMAND`, `[#N ]run COMMAND` for /bin/sh,\n"
	"and `quit` on standard input.\n"
	"  --rate HZ        ticks a second, 1 to 100 (20)\n"
	"  --slow-every N   meminfo, pressure, vmstat and loadavg at every Nth tick (10)\n"
	"  --ring KIB       memory for frames that wait to be written (4096)\n"
	"  --port FILE      a second path: all goes there too, and commands are taken from it\n"
	"  --root DIR       prefix of every path it opens in /proc (none)\n"
	"  --no-realtime    without locked memory, SCHED_FIFO and oom_score_adj\n"
	"  --settle         go to the background and say on the console when the caller is gone;\n"
	"                   then take `wake SECONDS SEED` from the port, and wait for --attach\n"
	"  --bell ADDRESS   in virtual time: share memory at this address with the host, and ring\n"
	"  --attach         have an agent that waits do it, if there is one\n"
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
		{ "port", required_argument, NULL, 'p' },
		{ "root", required_argument, NULL, 'd' },
		{ "no-realtime", no_argument, NULL, 'n' },
		{ "settle", no_argument, NULL, 'S' },
		{ "attach", no_argument, NULL, 'A' },
		{ "bell", required_argument, NULL, 'B' },
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
		else if (c == 'p')
			settings.port = optarg;
		else if (c == 'd')
			settings.root = optarg;
		else if (c == 'n')
			settings.realtime = false;
		else if (c == 'S')
			settings.settles = true;
		else if (c == 'B')
			settings.bell = number("bell", optarg, 1UL << 40);
		else if (c == 'A')
			settings.attaches = true;
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
	unsigned int i;
	int port = -1, sig;

	parse_options(argc, argv);
	if (settings.attaches && attach())
		return 0;
	if (settings.settles)
		settle();
	set_up_streams();
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&end);
	sigaddset(&end, SIGTERM);
	sigprocmask(SIG_BLOCK, &end, NULL);
	set_up_ring();
	set_up_proc();
	if (settings.bell) {
		add_input(set_up_bell(settings.bell));
	} else {
		ring_add_output(STDOUT_FILENO, PIPE_CHUNK, write);
		add_input(STDIN_FILENO);
		port = set_up_port();
	}
	set_up_sources();
	if (settings.settles || settings.bell)
		open_sources();
	if (settings.bell)
		wait_for_go();
	if (settings.realtime)
		set_up_realtime();
	/* For this thread, those for commands and the readers. */
	pthread_barrier_init(&gate, NULL, 1 + nr_inputs + NR_READERS);
	start_writers();
	for (i = 0; i < nr_inputs; i++)
		start_thread(command_main, &inputs[i]);
	start_readers();
	if (settings.settles)
		wait_for_wish(port);
	period_ns = NSEC_PER_SEC / settings.rate;
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
