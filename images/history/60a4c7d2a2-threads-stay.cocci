// SPDX-License-Identifier: GPL-2.0-or-later
// A taskq with a thread for each CPU keeps the threads that it was made with, as before 60a4c7d2a2 (2020).
//
// Where CPUs came later, all their work was done by threads for the few that there had been.
@@
expression queue;
@@
spl_taskq_expand(...)
{
	...
-	if (!(queue->tq_flags & TASKQ_ACTIVE))
+	if (queue)
	{ ... }
	...
}

@@
expression queue;
@@
spl_taskq_prepare_down(...)
{
	...
-	if (!(queue->tq_flags & TASKQ_ACTIVE))
+	if (queue)
		goto out;
	...
}
