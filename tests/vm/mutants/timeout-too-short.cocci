// SPDX-License-Identifier: GPL-2.0-or-later
// Callers do not wait at all.
@@
expression queue, condition;
@@
	wait_event_timeout(queue, condition,
-	HZ / 10
+	0
	)
