// SPDX-License-Identifier: GPL-2.0-or-later
// TQ_FRONT is accepted and ignored, as before f0d8bb2 (2010).
//
// What has to be done first waits for all that was dispatched before, and may be what that waits for.
@@
expression flags;
@@
taskq_dispatch(...)
{
	<...
-	(flags & TQ_FRONT)
+	(0)
	...>
}
