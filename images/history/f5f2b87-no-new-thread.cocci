// SPDX-License-Identifier: GPL-2.0-or-later
// A task that is dispatched while all threads are busy has no thread made for it, as before f5f2b87 (2015).
//
// A task that waits for another one of its own taskq then waits for ever. Users saw that when filesystems were mounted
// and unmounted automatically.
@@
expression flags, queue;
@@
taskq_dispatch(...)
{
	...
-	if (!(flags & TQ_NOQUEUE) && queue->tq_nactive == queue->tq_nthreads)
-		(void) taskq_thread_spawn(queue);
	...
}
