// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Wrecks a guest in ways that no program can, so that the harness is seen to
 * tell what happened. `insmod wreck.ko action=NAME`; it happens a moment later,
 * so that insmod and whoever called it come back.
 *
 *   freeze   every CPU spins with interrupts off: nothing in the guest answers
 *   sem      SPL's list of caches is locked for ever: the slab file cannot be read
 *   oops     a kernel thread dereferences NULL
 *   order    two mutexes are taken in one order and then in the other, by one
 *            thread: harmless, and what lockdep is there to report
 */
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rwsem.h>
#include <linux/smp.h>

#define DELAY_MS	300

static char *action = "";
module_param(action, charp, 0444);

static noinline void wreck_spin(void *unused)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}

static int do_freeze(void *unused)
{
	msleep(DELAY_MS);
	smp_call_function(wreck_spin, NULL, 0);
	wreck_spin(NULL);
	return 0;
}

/* kallsyms_lookup_name() is not exported since Linux 5.7 (commit 0bd476e6c671); a probe on it gives its address. */
static unsigned long find_symbol(const char *name)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);

	if (register_kprobe(&probe))
		return 0;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return lookup(name);
}

static int do_sem(void *unused)
{
	struct rw_semaphore *sem = (void *)find_symbol("spl_kmem_cache_sem");

	msleep(DELAY_MS);
	if (sem)
		down_write(sem);
	for (;;)
		msleep(1000);
	return 0;
}

static int do_oops(void *unused)
{
	msleep(DELAY_MS);
	*(volatile int *)8 = 1;
	return 0;
}

static DEFINE_MUTEX(wreck_first);
static DEFINE_MUTEX(wreck_second);

static int do_order(void *unused)
{
	msleep(DELAY_MS);
	mutex_lock(&wreck_first);
	mutex_lock(&wreck_second);
	mutex_unlock(&wreck_second);
	mutex_unlock(&wreck_first);
	mutex_lock(&wreck_second);
	mutex_lock(&wreck_first);
	mutex_unlock(&wreck_first);
	mutex_unlock(&wreck_second);
	return 0;
}

static const struct {
	const char *name;
	int (*run)(void *unused);
} actions[] = {
	{ "freeze", do_freeze },
	{ "sem", do_sem },
	{ "oops", do_oops },
	{ "order", do_order },
};

static int __init wreck_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		if (!strcmp(actions[i].name, action))
			return PTR_ERR_OR_ZERO(kthread_run(actions[i].run, NULL, "wreck"));
	return -EINVAL;
}

/* No exit: what it has done cannot be taken back. */
module_init(wreck_init);
MODULE_DESCRIPTION("wrecks a guest on purpose");
MODULE_LICENSE("GPL");
