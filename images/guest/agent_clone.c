// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The agent in a template: it is all set up and waits, and so it is in every
 * clone. It takes the clone's time and seed from the port, which needs no
 * connection, and then the streams of whoever wants its samples.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define SEED_LEN	64
#define WAKE_LEN	256
#define NR_STREAMS	3	/* standard input, output and errors */
/* A port whose other end is closed is always ready, and has nothing. */
#define HUNG_UP_MS	50

/* What goes over the socket, with the streams. */
struct wish {
	unsigned long rate, slow_every;
};

static int parent_fd, socket_fd;

static int open_console(void)
{
	char path[4096];

	snprintf(path, sizeof(path), "%s/dev/console", settings.root);
	return open(path, O_WRONLY | O_NOCTTY | O_APPEND | O_CLOEXEC);
}

/* Standard error is the console for as long as nobody has asked for samples. */
static void say(const char *line)
{
	if (write(STDERR_FILENO, line, strlen(line)) != (ssize_t)strlen(line))
		exit(1);
}

/* The same one for all agents of a root. It has no name in a file system, so nothing is left of it. */
static socklen_t make_address(struct sockaddr_un *address)
{
	int n;

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	n = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "splvm-agent%s", settings.root);
	if (n >= (int)sizeof(address->sun_path) - 1)
		n = sizeof(address->sun_path) - 2;
	return offsetof(struct sockaddr_un, sun_path) + 1 + n;
}

/* A connection to the agent that waits; -1: there is none. */
static int call_waiting(void)
{
	struct sockaddr_un address;
	socklen_t len = make_address(&address);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, len)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Until the other end is closed. */
static void wait_for_end(int fd)
{
	char byte;

	while (read(fd, &byte, 1) > 0 || errno == EINTR)
		errno = 0;
}

/* A template that is made from a clone has an agent that waits already. */
static void relieve(void)
{
	int fd = call_waiting();

	if (fd < 0)
		return;
	shutdown(fd, SHUT_WR);
	wait_for_end(fd);
	close(fd);
}

void settle(void)
{
	struct sockaddr_un address;
	socklen_t len = make_address(&address);
	int console = open_console();
	pid_t child;

	parent_fd = syscall(SYS_pidfd_open, getppid(), 0);
	if (console < 0 || parent_fd < 0)
		die("to settle");
	relieve();
	socket_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (socket_fd < 0 || bind(socket_fd, (struct sockaddr *)&address, len) || listen(socket_fd, 1))
		die("socket");
	child = fork();
	if (child < 0)
		die("fork");
	if (child)
		_exit(0);
	setsid();
	/* The connection is only closed when nobody holds its pipes. */
	dup2(console, STDERR_FILENO);
	close(console);
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
}

/*
 * All clones wake up at the same moment of the same day, and with the same
 * random state. The host gives them its time, and seed as hexadecimal digits.
 */
static void wake(const char *line)
{
	struct {
		struct rand_pool_info info;
		unsigned char seed[SEED_LEN];
	} pool;
	unsigned char *seed = (unsigned char *)pool.info.buf;
	char digits[2 * SEED_LEN + 1];
	struct timespec ts = { 0 };
	long long now;
	int fd, i, n;

	if (sscanf(line, "wake %lld %128[0-9a-f]", &now, digits) != 2 || now <= 0)
		return;
	for (n = 0; sscanf(digits + 2 * n, "%2x", &i) == 1; n++)
		seed[n] = i;
	ts.tv_sec = now;
	if (clock_settime(CLOCK_REALTIME, &ts))
		die("time %lld", now);
	fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	pool.info.buf_size = n;
	pool.info.entropy_count = 8 * n;
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		die("/dev/urandom");
	close(fd);
	say("splvm: clone is awake\n");
}

/* False: the port has no other end just now. Nothing else comes by it as long as there are no samples. */
static bool hear(int port)
{
	static char line[WAKE_LEN];
	static size_t len;
	ssize_t n = read(port, line + len, sizeof(line) - 1 - len);

	if (n <= 0)
		return false;
	len += n;
	line[len] = '\0';
	if (!strchr(line, '\n') && len < sizeof(line) - 1)
		return true;
	len = 0;
	wake(line);
	return true;
}

/* Takes the streams as its own. False: nobody wants samples, but that this agent goes. */
static bool take_streams(int fd)
{
	union {
		struct cmsghdr head;
		char buf[CMSG_SPACE(NR_STREAMS * sizeof(int))];
	} control;
	struct wish wish;
	struct iovec iov = { .iov_base = &wish, .iov_len = sizeof(wish) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
	};
	int fds[NR_STREAMS], i;

	if (recvmsg(fd, &msg, 0) != sizeof(wish) || msg.msg_controllen < sizeof(control.buf))
		return false;
	memcpy(fds, CMSG_DATA(&control.head), sizeof(fds));
	for (i = 0; i < NR_STREAMS; i++) {
		dup2(fds[i], i);
		close(fds[i]);
	}
	settings.rate = wish.rate;
	settings.slow_every = wish.slow_every;
	return true;
}

void wait_for_wish(int port)
{
	struct pollfd parent = { .fd = parent_fd, .events = POLLIN };
	struct pollfd fds[] = { { .fd = socket_fd, .events = POLLIN }, { .events = POLLIN } };
	bool hung_up = false;
	int fd;

	while (poll(&parent, 1, -1) < 0 && errno == EINTR)
		;
	close(parent_fd);
	say("splvm: guest has settled\n");
	do {
		fds[1].fd = hung_up ? -1 : port;
		fds[1].revents = 0;
		poll(fds, 2, hung_up ? HUNG_UP_MS : -1);
		hung_up = fds[1].revents && !hear(port);
	} while (!(fds[0].revents & POLLIN));
	fd = accept4(socket_fd, NULL, NULL, SOCK_CLOEXEC);
	/* Whoever comes later finds nobody, and samples on its own. The other end sees ours close when we end. */
	close(socket_fd);
	if (fd < 0 || !take_streams(fd))
		_exit(0);
}

bool attach(void)
{
	union {
		struct cmsghdr head;
		char buf[CMSG_SPACE(NR_STREAMS * sizeof(int))];
	} control = { .head = {
		.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(NR_STREAMS * sizeof(int)),
	} };
	static const int streams[NR_STREAMS] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO };
	struct wish wish = { .rate = settings.rate, .slow_every = settings.slow_every };
	struct iovec iov = { .iov_base = &wish, .iov_len = sizeof(wish) };
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control.buf),
	};
	int fd = call_waiting(), adj;

	memcpy(CMSG_DATA(&control.head), streams, sizeof(streams));
	if (fd < 0 || sendmsg(fd, &msg, MSG_NOSIGNAL) != sizeof(wish))
		return false;
	/* It is small, but if it were killed, its connection would be told that the agent has ended. */
	adj = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (settings.realtime && adj >= 0 && write(adj, "-1000", 5) != 5)
		fprintf(stderr, "agent: oom_score_adj: %s\n", strerror(errno));
	/* The other one's now: it is to be the one that ends them. */
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	close(STDERR_FILENO);
	wait_for_end(fd);
	return true;
}
