/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SLABPROBE_HOOK_H
#define SLABPROBE_HOOK_H

#include <linux/atomic.h>
#include <linux/ftrace.h>
#include <linux/types.h>

struct probe_hook {
	const char *name;		/* of the function whose calls are diverted */
	void *replacement;
	unsigned long original;		/* where it goes on, behind ftrace's call */
	atomic_t inside;		/* tasks in the replacement */
	bool enabled;
	struct ftrace_ops ops;
};

unsigned long probe_find_function(const char *name);
int probe_hook_enable(struct probe_hook *hook);
void probe_hook_disable(struct probe_hook *hook);

/* What a replacement begins with, and what it ends with. */
static inline void *probe_hook_enter(struct probe_hook *hook)
{
	atomic_inc(&hook->inside);
	return (void *)READ_ONCE(hook->original);
}

static inline void probe_hook_leave(struct probe_hook *hook)
{
	atomic_dec(&hook->inside);
}

#endif
