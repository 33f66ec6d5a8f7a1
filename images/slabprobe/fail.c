// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Faults: allocations that the kernel lets fail, in one place of SPL's.
 *
 * The kernel's own fault injection does it: fail_page_alloc, set up below
 * /sys/kernel/debug to look at marked tasks alone (task-filter). A task is marked
 * here for as long as it grows the cache under test, or takes an object from it,
 * and by nobody else, so nothing but that can fail. How many did is counted where
 * the page allocator asks: should_fail_alloc_page() says yes.
 */
#include <linux/atomic.h>
#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/kprobes.h>
#include <linux/sched.h>

#include "slabprobe.h"

static enum probe_fail place;
static atomic64_t marked = ATOMIC64_INIT(0);
static atomic64_t injected = ATOMIC64_INIT(0);

/*
 * Those who asked for a growth are asleep by then, and have not timed out yet. A
 * growth that fails at once may be over before they come to wait for it.
 */
#define ASLEEP_MS	20

#ifdef CONFIG_FAULT_INJECTION
static bool counting;
static bool used_up;	/* the last growth met no fault, so there are no more */

static int count_fault(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	if (current->make_it_fail && (regs_return_value(regs) & 0xff))
		atomic64_inc(&injected);
	return 0;
}

/* Enough instances for every task that may be in it at one time. */
static struct kretprobe counter = {
	.kp.symbol_name = "should_fail_alloc_page",
	.handler = count_fault,
	.maxactive = 256,
};

int probe_fail_set(enum probe_fail wish)
{
	int err;

	if (wish != PROBE_FAIL_OFF && !counting) {
		err = register_kretprobe(&counter);
		if (err)
			return err;
		counting = true;
	}
	WRITE_ONCE(used_up, false);
	WRITE_ONCE(place, wish);
	return 0;
}

bool probe_fail_begin(enum probe_fail here)
{
	if (READ_ONCE(place) != here)
		return false;
	atomic64_inc(&marked);
	current->make_it_fail = 1;
	return true;
}

void probe_fail_end(bool begun)
{
	if (begun)
		current->make_it_fail = 0;
}

/* There is one growth at a time. */
void probe_fail_grow(void (*grow)(void *data), void *data)
{
	bool begun;
	s64 before;

	if (READ_ONCE(place) == PROBE_FAIL_GROW && !READ_ONCE(used_up))
		msleep(ASLEEP_MS);
	before = atomic64_read(&injected);
	begun = probe_fail_begin(PROBE_FAIL_GROW);
	grow(data);
	probe_fail_end(begun);
	if (begun)
		WRITE_ONCE(used_up, atomic64_read(&injected) == before);
}

void probe_fail_exit(void)
{
	if (counting)
		unregister_kretprobe(&counter);
}

static int missed(void)
{
	return counter.nmissed;
}
#else
int probe_fail_set(enum probe_fail wish)
{
	return wish == PROBE_FAIL_OFF ? 0 : -EOPNOTSUPP;
}

bool probe_fail_begin(enum probe_fail here)
{
	return false;
}

void probe_fail_end(bool begun)
{
}

void probe_fail_grow(void (*grow)(void *data), void *data)
{
	grow(data);
}

void probe_fail_exit(void)
{
}

static int missed(void)
{
	return 0;
}
#endif

void probe_fail_show(struct seq_file *m)
{
	static const char * const places[] = { "off", "grow", "emergency" };

	seq_printf(m, "fail place=%s marked=%lld injected=%lld missed=%d\n",
		   places[READ_ONCE(place)], atomic64_read(&marked),
		   atomic64_read(&injected), missed());
}
