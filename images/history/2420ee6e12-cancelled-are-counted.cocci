// SPDX-License-Identifier: GPL-2.0-or-later
// A task that was cancelled is counted as waiting for ever, as before 2420ee6e12 (2024).
//
// The kstats of a taskq showed more and more tasks, and there were none.
@@
symbol tasks_total;
typedef taskq_t;
identifier queue;
expression entry;
@@
taskq_cancel_id(taskq_t *queue, ...)
{
	<...
	entry->tqent_flags |= TQENT_FLAG_CANCEL;
+	TQSTAT_INC(queue, tasks_total);
	...>
}
