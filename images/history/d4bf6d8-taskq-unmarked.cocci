// SPDX-License-Identifier: GPL-2.0-or-later
// Threads of a taskq are not marked, as before d4bf6d8429 (2015).
//
// Users saw work that a taskq does wait in reclaim for a filesystem that waits for the taskq. The growth of a cache is
// marked by itself.
@@
@@
taskq_thread(...)
{
	...
-	(void) spl_fstrans_mark();
	...
}
