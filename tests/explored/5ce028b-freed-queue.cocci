// SPDX-License-Identifier: GPL-2.0-or-later
// A taskq is destroyed without regard to a thread that was made and has not begun yet, as before 5ce028b (SPL, 2016).
//
// The thread begins on memory that was given back.
@counts_until_it_is_made@
identifier tq, flags;
@@
taskq_thread_spawn_task(...)
{
	...
-	if (taskq_thread_create(tq) == NULL) {
-		spin_lock_irqsave_nested(&tq->tq_lock, flags, tq->tq_lock_class);
-		tq->tq_nspawn--;
-		spin_unlock_irqrestore(&tq->tq_lock, flags);
-	}
+	(void) taskq_thread_create(tq);
+	spin_lock_irqsave_nested(&tq->tq_lock, flags, tq->tq_lock_class);
+	tq->tq_nspawn--;
+	spin_unlock_irqrestore(&tq->tq_lock, flags);
}

@does_not_count_itself@
identifier tq;
@@
taskq_thread(...)
{
	<...
-	if (tq->tq_flags & TASKQ_DYNAMIC)
-		tq->tq_nspawn--;
	...>
}

@waits_for_nobody@
identifier tq;
@@
taskq_destroy(...)
{
	<...
-	while (tq->tq_nspawn) {
-		...
-	}
	...>
}
