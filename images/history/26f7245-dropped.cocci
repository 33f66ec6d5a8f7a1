// SPDX-License-Identifier: GPL-2.0-or-later
// A task is dropped if the taskq has no entry left, also for who may sleep, as before 26f7245 (2010).
@@
expression flags, queue;
@@
task_alloc(...)
{
	...
	if (queue->tq_nalloc >= queue->tq_maxalloc) {
-		if (flags & TQ_NOSLEEP)
			return (NULL);
		...
	}
	...
}
