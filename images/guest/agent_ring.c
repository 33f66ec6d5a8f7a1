// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The way out of the agent: a ring of whole frames between the threads that
 * make them and the outputs, one for each path to the host.
 *
 * Every output gets all of the stream; the host tells by the numbers of the
 * frames which it has already. A frame that finds no room is lost, but its number
 * is used up. An output that does not take what it is given would bring that
 * about for the others as well: if it alone is what there is no room for, it is
 * given up.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"

#define END_RESERVE	(3 * SHORT_LEN)	/* room in the ring for the last frame */
#define MAX_CHUNK	(16 * 1024)
#define MAX_OUTPUTS	2

struct output {
	int fd;
	ssize_t (*write)(int fd, const void *buf, size_t n);
	size_t chunk;	/* at most in one write */
	uint64_t done;	/* bytes of the stream that went out */
	bool open;
	/* What is being written: the ring's own memory is free for others once an output is given up. */
	char buf[MAX_CHUNK];
};

/* head and done count the bytes of the stream from its beginning. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t flush;
	char *buf;
	size_t size;
	size_t reserve;	/* of the size, only for the last frame */
	uint64_t head, wanted;	/* up to there it is to go out */
	uint64_t seq, dropped;
	bool closed;	/* the last frame is in */
	bool whole;	/* an output has it all */
	struct output outputs[MAX_OUTPUTS];
	unsigned int nr_outputs;
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
	size_t at = ring.head % ring.size;
	size_t first = n < ring.size - at ? n : ring.size - at;

	memcpy(ring.buf + at, s, first);
	memcpy(ring.buf, s + first, n - first);
	ring.head += n;
}

void ring_flush(void)
{
	ring.wanted = ring.head;
	pthread_cond_broadcast(&ring.flush);
}

/* The open output that is furthest behind; NULL: there is none. */
static struct output *slowest(void)
{
	struct output *out, *found = NULL;

	for (out = ring.outputs; out < ring.outputs + ring.nr_outputs; out++)
		if (out->open && (!found || out->done < found->done))
			found = out;
	return found;
}

static bool has_room(const struct output *out, size_t len)
{
	return len <= ring.size - ring.reserve - (ring.head - out->done);
}

/* An output that alone stands in the way is closed; its thread sees that when it comes back. */
static bool make_room(size_t len)
{
	struct output *out = slowest(), *next;

	if (!out || has_room(out, len))
		return out;
	out->open = false;
	next = slowest();
	if (next && has_room(next, len))
		return true;
	out->open = true;
	return false;
}

bool ring_push(const struct frame *f)
{
	char buf[SHORT_LEN];
	struct text head = { .buf = buf, .size = sizeof(buf) };
	struct output *out;

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
	if (!make_room(head.len + f->len + 1)) {
		ring.dropped++;
		return false;
	}
	ring_copy(buf, head.len);
	ring_copy(f->payload, f->len);
	ring_copy("\n", 1);
	out = slowest();
	if (out && ring.head - out->done > ring.size / 2)
		ring_flush();
	return true;
}

void ring_stamp(struct text *t, const char *before)
{
	text_num(t, before, ring.seq);
	text_num(t, " dropped=", ring.dropped);
}

void ring_close(const struct frame *last)
{
	ring.reserve = 0;
	ring_push(last);
	ring_flush();
	ring.closed = true;
}

/*
 * Ends the process. The descriptors go first: a thread that cannot be killed
 * just now would keep them open, and the reader would wait for their end.
 */
static void __attribute__((noreturn)) leave(int status)
{
	unsigned int i;

	for (i = 0; i < ring.nr_outputs; i++)
		close(ring.outputs[i].fd);
	close(STDERR_FILENO);
	_exit(status);
}

bool again(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };

	if (errno == EAGAIN)
		poll(&p, 1, -1);
	return errno == EAGAIN || errno == EINTR;
}

/* With the lock held, which is let go while it writes. */
static void output_write(struct output *out)
{
	size_t at = out->done % ring.size;
	size_t n = ring.head - out->done;
	ssize_t done;

	if (n > ring.size - at)
		n = ring.size - at;
	if (n > out->chunk)
		n = out->chunk;
	memcpy(out->buf, ring.buf + at, n);
	ring_unlock();
	do
		done = out->write(out->fd, out->buf, n);
	while (done < 0 && again(out->fd, POLLOUT));
	ring_lock();
	if (done < 0)
		out->open = false;
	else
		out->done += done;
}

/* With the lock held: the process ends with its last output. */
static void leave_if_last(void)
{
	if (!slowest())
		leave(ring.whole ? 0 : 1);
}

static void *writer_main(void *arg)
{
	struct output *out = arg;

	ring_lock();
	while (out->open) {
		while (out->done >= ring.wanted && !ring.closed)
			pthread_cond_wait(&ring.flush, &ring.lock);
		while (out->open && out->done < ring.head)
			output_write(out);
		if (out->open && ring.closed) {
			out->open = false;
			ring.whole = true;
		}
	}
	leave_if_last();
	ring_unlock();
	/* The host sees that this path has ended. A port has no such end, and commands still come by it. */
	if (out->fd == STDOUT_FILENO)
		dup2(STDERR_FILENO, out->fd);
	return NULL;
}

void ring_add_output(int fd, size_t chunk, ssize_t (*write)(int fd, const void *buf, size_t n))
{
	struct output *out = &ring.outputs[ring.nr_outputs++];

	out->fd = fd;
	out->write = write;
	out->chunk = chunk < MAX_CHUNK ? chunk : MAX_CHUNK;
	out->open = true;
	memset(out->buf, 1, sizeof(out->buf));
}

void set_up_ring(void)
{
	ring.size = settings.ring_kib * 1024 + END_RESERVE;
	ring.buf = malloc(ring.size);
	if (!ring.buf)
		die("ring of %lu KiB", settings.ring_kib);
	memset(ring.buf, 1, ring.size);
}

void start_writers(void)
{
	unsigned int i;

	for (i = 0; i < ring.nr_outputs; i++)
		start_thread(writer_main, &ring.outputs[i]);
}
