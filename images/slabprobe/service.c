// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Where a thread's objects came from: the magazine of its CPU, or a refill of
 * it, for which the cache may have had to grow. Who waited for a growth is
 * counted by how long, and by how long after the growth it had its object.
 *
 * Threads stay on one CPU, so its magazine is the one that SPL looks into.
 */
#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/sched.h>

#include "slabprobe.h"

unsigned int probe_bucket(u64 from_ns, u64 to_ns)
{
	u64 took = to_ns > from_ns ? to_ns - from_ns : 1;

	return min_t(unsigned int, ilog2(took), PROBE_BUCKETS - 1);
}

void probe_service_begin(struct probe_call *call, const struct probe_cache *cache)
{
	call->sleeps = current->nvcsw;
	call->slabs = probe_growth_slabs();
	call->done = probe_growth_done();
	call->avail = probe_cache_magazine(cache).avail;
}

/*
 * A growth that was under way, or began, before the object was there. Whoever
 * did not sleep meanwhile was on the CPU that the worker took, and needed no
 * wake-up. A refill may take several growths; what counts for the others is the
 * time from the end of the first in which there was none. It is 0 if there was
 * no end: callers are woken before the worker's function returns.
 */
static void note_growth(struct probe_service *s, const struct probe_call *call,
			u64 from_ns, u64 to_ns)
{
	bool waited = probe_growth_begun() > call->done;

	if (waited || probe_growth_slabs() > call->slabs)
		s->grew++;
	if (!waited || current->nvcsw == call->sleeps)
		return;
	s->waited[probe_bucket(from_ns, to_ns)]++;
	s->woken[probe_bucket(0, probe_growth_idle(call->done, to_ns))]++;
}

/*
 * What the thread gave back itself has to be there when it asks again, as
 * nobody else uses this magazine: the first one that is not has lost the rest.
 */
void probe_service_end(struct probe_service *s, const struct probe_call *call,
		       const struct probe_cache *cache, u64 from_ns, u64 to_ns, bool emergency)
{
	bool hit = call->avail && probe_cache_magazine(cache).avail == call->avail - 1;

	if (s->due) {
		/* In this order, for a reader must not see one as missing that is not. */
		smp_store_release(&s->reused, s->reused + hit);
		smp_store_release(&s->reusable, s->reusable + (hit ? 1 : s->due));
		s->due = hit ? s->due - 1 : 0;
	}
	if (hit)
		s->hits++;
	else if (!emergency)
		s->refills++;
	if (!hit && !emergency)
		note_growth(s, call, from_ns, to_ns);
}

/*
 * A full magazine drops its oldest `refill` objects before it takes the next
 * (spl_kmem_cache_free()), so of what was given back at least so many are kept.
 */
void probe_service_given(struct probe_service *s, const struct probe_cache *cache,
			 unsigned int objects)
{
	struct probe_magazine magazine = probe_cache_magazine(cache);

	s->due = 0;
	if (s->alone && magazine.size >= magazine.refill)
		s->due = min(objects, magazine.size - magazine.refill + 1);
}

/* Reaping empties the magazine of the CPU. */
void probe_service_reaped(struct probe_service *s)
{
	s->due = 0;
}

void probe_service_add(struct probe_service *sum, const struct probe_service *s)
{
	unsigned int bucket;

	sum->reusable += smp_load_acquire(&s->reusable);
	sum->reused += READ_ONCE(s->reused);
	sum->hits += READ_ONCE(s->hits);
	sum->refills += READ_ONCE(s->refills);
	sum->grew += READ_ONCE(s->grew);
	for (bucket = 0; bucket < PROBE_BUCKETS; bucket++) {
		sum->waited[bucket] += READ_ONCE(s->waited[bucket]);
		sum->woken[bucket] += READ_ONCE(s->woken[bucket]);
	}
}

static void show_histogram(struct seq_file *m, const char *tag, const u64 *counts)
{
	unsigned int bucket;

	for (bucket = 0; bucket < PROBE_BUCKETS; bucket++)
		if (counts[bucket])
			seq_printf(m, "%s %u %llu\n", tag, bucket, counts[bucket]);
}

void probe_service_show(struct seq_file *m, const struct probe_service *sum,
			const struct probe_cache *cache)
{
	struct probe_magazine magazine = probe_cache_magazine(cache);

	seq_printf(m, "magazine size=%u refill=%u cpus=%u hits=%llu refills=%llu grew=%llu reusable=%llu reused=%llu\n",
		   magazine.size, magazine.refill, num_online_cpus(), sum->hits,
		   sum->refills, sum->grew, sum->reusable, sum->reused);
	show_histogram(m, "waited", sum->waited);
	show_histogram(m, "woken", sum->woken);
}
