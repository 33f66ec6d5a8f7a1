// SPDX-License-Identifier: GPL-2.0-or-later
// Who cancels a delayed task does not wait for its timer where that has expired, as before 36e4f18883 (2025).
//
// The timer's function may not have run yet. It then puts a task into the queue that was given back, and has no function
// any more. Packaged sources before 2.4 have this anyway.
@waits_for_what_is_pending@
identifier tq, t, flags;
@@
taskq_cancel_id(...)
{
	<...
+	if (timer_pending(&t->tqent_timer)) {
	spin_unlock_irqrestore(&tq->tq_lock, flags);
(
	timer_delete_sync(&t->tqent_timer);
|
	del_timer_sync(&t->tqent_timer);
)
	spin_lock_irqsave_nested(&tq->tq_lock, flags, tq->tq_lock_class);
+	}
	...>
}
