// SPDX-License-Identifier: GPL-2.0-or-later
// A thread comes to the wait queue after it has let go the lock under which it saw that there is no task, as before
// 0bb43ca (2012).
//
// A task that is dispatched just then wakes nobody. Users saw pools stand still.
@@
expression queue, flags;
@@
taskq_thread(...)
{
	<...
-	add_wait_queue_exclusive(&queue->tq_work_waitq, &wait);
	spin_unlock_irqrestore(&queue->tq_lock, flags);
+	add_wait_queue_exclusive(&queue->tq_work_waitq, &wait);
	...>
}
