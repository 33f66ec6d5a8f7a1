// SPDX-License-Identifier: GPL-2.0-or-later
// A thread of a taskq says that it waits only after it has let go of the lock, as before 0bb43ca (SPL, 2012).
//
// Who dispatches in between wakes nobody, and the thread goes to sleep with a task in its list, for ever.
@says_so_late@
identifier tq, wait, flags;
@@
taskq_thread(...)
{
	<...
-	add_wait_queue_exclusive(&tq->tq_work_waitq, &wait);
	spin_unlock_irqrestore(&tq->tq_lock, flags);
+	add_wait_queue_exclusive(&tq->tq_work_waitq, &wait);
	...>
}
