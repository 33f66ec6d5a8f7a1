// SPDX-License-Identifier: GPL-2.0-or-later
// Who cancels a task does not wait for its timer if that has just gone off, as before 36e4f18883 (2025).
//
// The timer's function then dispatches an entry that is free again. Users saw a NULL pointer called by a thread of a
// taskq.
@@
expression queue, entry, flags;
@@
taskq_cancel_id(...)
{
	<...
-	spin_unlock_irqrestore(&queue->tq_lock, flags);
-	timer_delete_sync(&entry->tqent_timer);
-	spin_lock_irqsave_nested(&queue->tq_lock, flags, queue->tq_lock_class);
+	if (timer_pending(&entry->tqent_timer)) {
+		spin_unlock_irqrestore(&queue->tq_lock, flags);
+		timer_delete_sync(&entry->tqent_timer);
+		spin_lock_irqsave_nested(&queue->tq_lock, flags, queue->tq_lock_class);
+	}
	...>
}
