// SPDX-License-Identifier: GPL-2.0-or-later
// Priorities are taken the other way round, as before 9dc5ffb (2015).
//
// Threads that were to be first had the least of the CPU, and those that may wait the most.
@@
expression thread, priority;
@@
-	set_user_nice(thread, PRIO_TO_NICE(priority))
+	set_user_nice(thread, -PRIO_TO_NICE(priority))
