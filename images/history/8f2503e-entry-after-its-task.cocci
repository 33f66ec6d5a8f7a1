// SPDX-License-Identifier: GPL-2.0-or-later
// An entry of the caller's own is looked at once its task has run, as before 8f2503e (2011).
//
// It may be in use again by then, or be freed: users saw machines hang and crash in threads of taskqs.
@no_copy@
expression entry;
identifier copy;
@@
taskq_thread(...)
{
	<...
-	if (entry->tqent_flags & TQENT_FLAG_PREALLOC) {
-		copy = *entry;
-		entry = &copy;
-	}
	...>
}

@its_flags_afterwards@
expression thread, queue, entry;
@@
taskq_thread(...)
{
	<...
-	if (!(thread->tqt_flags & TQENT_FLAG_PREALLOC))
+	if (!(entry->tqent_flags & TQENT_FLAG_PREALLOC))
		task_done(queue, entry);
	...>
}
