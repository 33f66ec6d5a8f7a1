// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The agent's way to the host in virtual time: memory that both share, and a
 * bell. To ring is to write to a port whose other end takes a few bytes and no
 * more before the host reads: QEMU holds the one thread of all CPUs in that
 * write. No instruction is executed and no time passes until the host has read
 * the rest, and by then its answer is in the shared memory.
 *
 * framework/splvm/guest/bell.py has the other end. Other machines have other
 * devices, so all that is special to this one is in ring_bell(),
 * map_bell() and be_frozen().
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

#define BELL_PORT	0x4f0
#define BELL_PAD	64	/* many times what the other end takes */
#define SHARED_LEN	(1024 * 1024)
#define ANSWER_AT	4096
#define FRAMES_AT	65536
#define ENTROPY_LEN	64
#define YES		0x1ea5e0fb	/* whoever boots the guest leaves other things there */
/* Until the console has said all, and what the boot has left to do is done. */
#define REST_NS		(NSEC_PER_SEC / 2)
/* A seed is also that many turns of a loop, so that timers go off elsewhere in what the threads do. */
#define MAX_TURNS	1000003

static volatile struct {
	uint32_t go, rate;	/* the host's */
	uint32_t frames_len;	/* the guest's */
	uint32_t answer_len;	/* the host's */
	uint64_t seed;
	uint8_t unused[40];
	uint8_t entropy[ENTROPY_LEN];
} *shared;
static int answers[2];	/* a pipe to the thread that obeys */

static char *shared_at(size_t offset)
{
	return (char *)(uintptr_t)shared + offset;
}

static void map_bell(unsigned long address)
{
	/* Not O_SYNC: the kernel has mapped tables of the firmware there as ordinary memory. */
	int fd = open("/dev/mem", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		die("/dev/mem");
	shared = mmap(NULL, SHARED_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, address);
	if (shared == MAP_FAILED)
		die("memory at %#lx", address);
	close(fd);
	memset((void *)(uintptr_t)shared, 0, sizeof(*shared));
	/* Threads have it from the one that starts them. */
	if (ioperm(BELL_PORT, 1, 1))
		die("port %#x", BELL_PORT);
}

/* When it comes back, the host has answered. */
static void ring_bell(void)
{
	static const char pad[BELL_PAD];

	__sync_synchronize();
	outsb(BELL_PORT, pad, sizeof(pad));
	__sync_synchronize();
}

/* The template is frozen here: by it images/hold/hold.c knows where to hold the guest. */
static void be_frozen(void)
{
	__asm__ volatile(".byte 0x0f, 0x1f, 0x80, 0xfb, 0xe0, 0xa5, 0x1e" ::: "memory");
}

/* Runs /bin/splvm-open, which lets the host in; the host has no more to say here. */
static void open_network(const char *words)
{
	const char *argv[] = { "sh", "/bin/splvm-open", words, NULL };

	start_shell(argv);
}

static void take_answer(void)
{
	static char answer[FRAMES_AT - ANSWER_AT + 1];
	size_t len = shared->answer_len;

	if (!len || len >= sizeof(answer))
		return;
	memcpy(answer, shared_at(ANSWER_AT), len);
	answer[len] = '\0';
	if (!strncmp(answer, "open ", 5))
		open_network(answer + 5);
	else if (write(answers[1], answer, len) != (ssize_t)len)
		die("answer");
}

/* In the place of write(): all is taken. */
static ssize_t bell_write(int fd, const void *buf, size_t n)
{
	(void)fd;
	memcpy(shared_at(FRAMES_AT), buf, n);
	shared->frames_len = n;
	ring_bell();
	take_answer();
	return n;
}

int set_up_bell(unsigned long address)
{
	map_bell(address);
	if (pipe2(answers, O_CLOEXEC))
		die("pipe");
	ring_add_output(-1, BELL_CHUNK, bell_write);
	return answers[0];
}

static void add_entropy(void)
{
	struct {
		struct rand_pool_info info;
		unsigned char seed[ENTROPY_LEN];
	} pool;
	int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	pool.info.buf_size = ENTROPY_LEN;
	pool.info.entropy_count = 8 * ENTROPY_LEN;
	memcpy(pool.info.buf, shared_at(offsetof(typeof(*shared), entropy)), ENTROPY_LEN);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		die("/dev/urandom");
	close(fd);
}

void wait_for_go(void)
{
	static const char settled[] = "splvm: guest has settled\n";
	volatile unsigned long turns;

	if (write(STDERR_FILENO, settled, sizeof(settled) - 1) < 0)
		die("console");
	sleep_until(now_ns() + REST_NS);
	/* In a clone it is YES from the beginning. */
	while (shared->go != YES)
		be_frozen();
	settings.rate = shared->rate;
	add_entropy();
	for (turns = shared->seed % MAX_TURNS; turns; turns--)
		;
}
