// SPDX-License-Identifier: GPL-2.0-or-later
// Who waits for an entry of a full taskq does not sleep, as before 2dff7527d4 (2024).
//
// schedule_timeout() comes back at once unless the caller said how it sleeps: the CPU was used for nothing, and the
// entry was made all the same.
@@
expression timeout;
@@
task_alloc(...)
{
	<...
-	schedule_timeout_interruptible(timeout);
+	schedule_timeout(timeout);
	...>
}
