// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Functions of the kernel and of SPL: where one is, and sending its calls here.
 *
 * A hook is one of ftrace with IPMODIFY, as livepatch has them. The replacement
 * runs the original from just past the ftrace call site, so that the hook does
 * not see it again.
 */
#include <linux/errno.h>
#include <linux/ftrace.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/printk.h>
#include <linux/string.h>
#include <linux/version.h>

#include "slabprobe.h"
#include "hook.h"

/* Kprobes find what is not exported; 0 if there is no such function. */
unsigned long probe_find_function(const char *name)
{
	/* Armed, it would have the kernel's text written for nothing. */
	struct kprobe kprobe = { .symbol_name = name, .flags = KPROBE_FLAG_DISABLED };
	unsigned long address;

	if (register_kprobe(&kprobe))
		return 0;
	address = (unsigned long)kprobe.addr;
	unregister_kprobe(&kprobe);
	return address;
}

/* ftrace hands over its own register type since Linux commit d19ad0775dcd. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(5, 11, 0)
static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct ftrace_regs *fregs)
{
	struct pt_regs *regs = ftrace_get_regs(fregs);
#else
static void notrace divert(unsigned long ip, unsigned long parent_ip,
			   struct ftrace_ops *ops, struct pt_regs *regs)
{
#endif
	struct probe_hook *hook = container_of(ops, struct probe_hook, ops);

	WRITE_ONCE(hook->original, ip + MCOUNT_INSN_SIZE);
	regs->ip = (unsigned long)hook->replacement;
}

/* -ENOENT if there is no such function. */
int probe_hook_enable(struct probe_hook *hook)
{
	int err;

	if (hook->enabled)
		return 0;
	if (!probe_find_function(hook->name))
		return -ENOENT;
	hook->ops.func = divert;
	hook->ops.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY;
	err = ftrace_set_filter(&hook->ops, (unsigned char *)hook->name,
				strlen(hook->name), 1);
	if (!err)
		err = register_ftrace_function(&hook->ops);
	if (err)
		pr_err(PROBE_NAME ": cannot divert %s: %d\n", hook->name, err);
	hook->enabled = !err;
	return err;
}

/*
 * No task may be left in code that is about to go: first nobody comes in any
 * more, then everybody leaves, and at last every task has switched voluntarily,
 * that is, also has run the few instructions behind the last probe_hook_leave().
 */
void probe_hook_disable(struct probe_hook *hook)
{
	if (!hook->enabled)
		return;
	unregister_ftrace_function(&hook->ops);
	/* Gives the filter's memory back; modules have ftrace_free_filter() since 8be9fbd5345d. */
	ftrace_set_filter(&hook->ops, NULL, 0, 1);
	synchronize_rcu_tasks();
	while (atomic_read(&hook->inside))
		schedule_timeout_uninterruptible(1);
	synchronize_rcu_tasks();
	hook->enabled = false;
}
