// SPDX-License-Identifier: GPL-2.0-or-later
// A thread of a taskq waits to be woken only after it has let go of the lock, as before 0bb43ca (2012).
//
// A task that is dispatched in between wakes nobody, and waits for the next one: users saw pools stand still.
@@
expression queue, flags;
identifier wait;
@@
taskq_thread(...)
{
	<...
-	add_wait_queue_exclusive(&queue->tq_work_waitq, &wait);
-	spin_unlock_irqrestore(&queue->tq_lock, flags);
+	spin_unlock_irqrestore(&queue->tq_lock, flags);
+	add_wait_queue_exclusive(&queue->tq_work_waitq, &wait);
	...>
}
