// SPDX-License-Identifier: GPL-2.0-or-later
// /proc/spl/taskq looks at the caller's entry while its task runs, as before cce83ba (2017).
//
// The task may have freed it by then, so who reads the file reads memory that is something else.
@@
symbol dup_task;
expression entry;
@@
taskq_thread(...)
{
	<...
-	if (entry->tqent_flags & TQENT_FLAG_PREALLOC) {
-		dup_task = *entry;
-		entry = &dup_task;
-	}
+	(void) dup_task;
	...>
}
