// SPDX-License-Identifier: GPL-2.0-or-later
// Nobody takes back what a thread of a taskq noted of itself when it ends, as before a4134da2b2 (2021).
//
// Each one left some bytes; and whoever got its number later was taken for a thread of that taskq.
@@
@@
taskq_thread(...)
{
	<...
-	tsd_set(taskq_tsd, NULL);
	...>
}

@@
@@
taskq_thread(...)
{
	<...
-	thread_exit();
	...>
}
