// SPDX-License-Identifier: GPL-2.0-or-later
// The growth of a cache may reclaim through filesystems, as before 043f9b5 (2012).
//
// Users saw ZFS stand still: a transaction had an object of one inode locked and grew a cache, reclaim evicted other
// inodes and waited for a lock of the same hash, or for a txg that waited for the transaction. Today a mark keeps
// reclaim away, so the mark is off while a cache grows; the worker has it again afterwards.
@unmarked_while_it_grows@
identifier cookie;
@@
__spl_cache_grow(...)
{
	...
-	fstrans_cookie_t cookie = spl_fstrans_mark();
+	unsigned int cookie = current->flags & SPL_FSTRANS;
+	current->flags &= ~SPL_FSTRANS;
	...
-	spl_fstrans_unmark(cookie);
+	current->flags |= cookie;
	...
}
