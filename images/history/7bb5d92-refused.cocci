// SPDX-License-Identifier: GPL-2.0-or-later
// TQ_NOQUEUE is refused if no thread is idle, though another one may be made, as before 7bb5d92 (2016).
@@
expression flags, queue;
@@
taskq_dispatch(...)
{
	<...
-	if (!(queue->tq_flags & TASKQ_DYNAMIC) || taskq_thread_spawn(queue) == 0)
		goto out;
	...>
}

@without_a_look_at_the_taskq@
expression queue;
@@
taskq_dispatch(...)
{
	<...
-	if (taskq_thread_spawn(queue) == 0)
		goto out;
	...>
}
