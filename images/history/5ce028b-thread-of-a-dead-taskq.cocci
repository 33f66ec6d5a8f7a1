// SPDX-License-Identifier: GPL-2.0-or-later
// Nobody waits for threads that are being made for a taskq which is destroyed, as before 5ce028b (2016).
//
// The thread comes to a taskq whose memory is somebody else's by then: users saw crashes when they exported pools.
@no_wait@
expression queue, flags, depth;
@@
taskq_destroy(...)
{
	<...
-	while (queue->tq_nspawn) {
-		spin_unlock_irqrestore(&queue->tq_lock, flags);
-		schedule_timeout_interruptible(1);
-		spin_lock_irqsave_nested(&queue->tq_lock, flags, depth);
-	}
	...>
}

@nor_for_the_one_who_makes_them@
@@
taskq_destroy(...)
{
	<...
-	if (dynamic_taskq != NULL)
-		taskq_wait_outstanding(dynamic_taskq, 0);
	...>
}
