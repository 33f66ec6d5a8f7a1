// SPDX-License-Identifier: GPL-2.0-or-later
// A thread of a taskq says of which it is by journal_info, as before c5a8b1e (2015).
//
// The field belongs to filesystems: with a pool in a file on ext4 or XFS these took it for a transaction of theirs, and
// crashed.
@@
identifier queue;
expression thread;
@@
taskq_thread(...)
{
	<...
	queue = thread->tqt_tq;
+	current->journal_info = queue;
	...>
}
