// SPDX-License-Identifier: GPL-2.0-or-later
// A caller waits for the worker for a whole second before it takes an emergency object, as before e50e6cc (2014).
//
// Users saw everything that writes stand still for a second at a time while the worker was stuck.
@@
expression queue, condition;
@@
	wait_event_timeout(queue, condition,
-	HZ / 10
+	HZ
	)
