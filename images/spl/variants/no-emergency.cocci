// SPDX-License-Identifier: GPL-2.0-or-later
// no-emergency: the caller waits for the worker, however long that takes.
//
// The wait in spl_cache_grow() loses its timeout, so nothing ever flags the
// cache as deadlocked and the emergency branch is never taken by a caller that
// may sleep. This is the control for "emergency objects keep callers going".
@wait_without_timeout@
expression queue, condition, timeout;
identifier remaining;
@@
spl_cache_grow(...)
{
	<...
-	remaining = wait_event_timeout(queue, condition, timeout);
+	wait_event(queue, condition);
+	remaining = 1;
	...>
}
