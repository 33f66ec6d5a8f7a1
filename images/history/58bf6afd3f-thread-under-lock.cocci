// SPDX-License-Identifier: GPL-2.0-or-later
// A thread for a CPU that comes is made with the taskq's lock held, as before 58bf6afd3f (2021).
//
// To make a thread takes a wait for another one: the kernel said so, and machines could hang.
@@
expression queue, flags;
identifier thread;
@@
spl_taskq_expand(...)
{
	<...
-	spin_unlock_irqrestore(&queue->tq_lock, flags);
	taskq_thread_t *thread = taskq_thread_create(queue);
+	spin_unlock_irqrestore(&queue->tq_lock, flags);
	...>
}
