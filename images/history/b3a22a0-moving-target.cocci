// SPDX-License-Identifier: GPL-2.0-or-later
// taskq_wait_outstanding() looks anew, each time it wakes up, which task was dispatched last, as before b3a22a0 (2016).
//
// It then waits for tasks that are dispatched meanwhile, and for as long as there are any, it does not come back.
@@
identifier id;
expression queue, waiting;
@@
taskq_wait_outstanding(...)
{
-	id = id ? id : queue->tq_next_id - 1;
-	wait_event(waiting, taskq_wait_outstanding_check(queue, id));
+	wait_event(waiting, taskq_wait_outstanding_check(queue, id ? id : queue->tq_next_id - 1));
}
