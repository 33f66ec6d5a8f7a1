// SPDX-License-Identifier: GPL-2.0-or-later
// taskq_dispatch() ends with interrupts on, whatever they were before, as before 749045b (2008).
//
// Users saw machines stand still at the end of I/O, which dispatches a task with interrupts off and a lock held.
@@
expression queue, flags;
@@
taskq_dispatch(...)
{
	...
-	spin_unlock_irqrestore(&queue->tq_lock, flags);
+	spin_unlock_irq(&queue->tq_lock);
	return ...;
}
