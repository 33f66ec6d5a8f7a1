// SPDX-License-Identifier: GPL-2.0-or-later
// taskq_wait() waits for what was dispatched before it alone, as before a876b03 (2015).
//
// Whoever took a taskq for empty after that, because tasks dispatch others, went on too early.
@@
expression queue, waiting;
@@
taskq_wait(...)
{
-	wait_event(waiting, taskq_wait_check(queue));
+	taskq_wait_outstanding(queue, 0);
}
