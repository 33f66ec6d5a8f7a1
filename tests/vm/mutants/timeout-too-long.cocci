// SPDX-License-Identifier: GPL-2.0-or-later
// Callers wait two seconds before they fall back.
@@
expression queue, condition;
@@
	wait_event_timeout(queue, condition,
-	HZ / 10
+	2 * HZ
	)
