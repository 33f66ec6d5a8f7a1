// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Commands of the host's that a shell runs: what a run sets up in a guest into
 * which nobody else comes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

/* Takes away what makes the agent go on while others cannot. */
static void be_ordinary(void)
{
	struct sched_param param = { 0 };
	sigset_t none;
	int fd;

	sched_setscheduler(0, SCHED_OTHER, &param);
	prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
	fd = openat(proc_fd, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "0", 1) != 1)
		dprintf(STDERR_FILENO, "agent: oom_score_adj: %s\n", strerror(errno));
	signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

pid_t start_shell(const char *const argv[])
{
	pid_t pid = fork();

	if (pid)
		return pid;
	be_ordinary();
	/* The other one is the stream. */
	dup2(STDERR_FILENO, STDOUT_FILENO);
	execv("/bin/sh", (char *const *)argv);
	_exit(127);
}

int run_shell(const char *command)
{
	const char *argv[] = { "sh", "-c", command, NULL };
	pid_t pid = start_shell(argv);
	int status;

	if (pid < 0)
		return errno;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}
