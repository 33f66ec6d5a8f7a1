// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a guest does for being frozen as a template, and first thing as a clone
 * of one. Part of the agent's program, which is there anyway; nothing of it runs
 * while the agent samples.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define SEED_LEN	256

static void say(const char *line)
{
	int fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 || write(fd, line, strlen(line)) != (ssize_t)strlen(line))
		die("/dev/console");
	close(fd);
}

/*
 * In the background: waits until the process that has started it is gone, that
 * is, until the SSH connection is closed, and says so. A connection that is
 * frozen would be a dead one in every clone.
 */
int settle(void)
{
	struct pollfd parent = { .fd = syscall(SYS_pidfd_open, getppid(), 0), .events = POLLIN };
	pid_t child;

	if (parent.fd < 0)
		die("pidfd_open");
	child = fork();
	if (child < 0)
		die("fork");
	if (child)
		return 0;
	setsid();
	/* The connection is only closed when nobody holds its pipes. */
	close(STDIN_FILENO);
	close(STDOUT_FILENO);
	close(STDERR_FILENO);
	while (poll(&parent, 1, -1) < 0 && errno == EINTR)
		;
	say("splvm: guest has settled\n");
	return 0;
}

/*
 * All clones wake up at the same moment of the same day, and with the same
 * random state. The host gives them its time, and seed on standard input.
 */
int wake(const char *now)
{
	struct {
		struct rand_pool_info info;
		char seed[SEED_LEN];
	} pool;
	struct timespec ts = { .tv_sec = strtoll(now, NULL, 10) };
	ssize_t n;
	int fd;

	if (ts.tv_sec <= 0 || clock_settime(CLOCK_REALTIME, &ts))
		die("time %s", now);
	n = read(STDIN_FILENO, pool.info.buf, SEED_LEN);
	fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	if (n <= 0 || fd < 0)
		die("seed");
	pool.info.buf_size = n;
	pool.info.entropy_count = 8 * n;
	if (ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		die("/dev/urandom");
	close(fd);
	say("splvm: clone is awake\n");
	return 0;
}
