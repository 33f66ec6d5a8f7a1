// SPDX-License-Identifier: GPL-2.0-or-later
// Once all tasks of a taskq have run, nobody who waits for further ones waits, as before 7257ec4 (2009).
@no_task_is_the_largest_number@
identifier least;
expression queue;
@@
taskq_lowest_id(...)
{
	...
-	taskqid_t least = queue->tq_next_id;
+	taskqid_t least = ~0UL;
	...
}

@all_below_have_run@
expression queue, result;
@@
taskq_wait_check(...)
{
	...
-	result = (queue->tq_lowest_id == queue->tq_next_id);
+	result = (queue->tq_lowest_id >= queue->tq_next_id);
	...
}
