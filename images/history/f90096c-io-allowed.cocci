// SPDX-License-Identifier: GPL-2.0-or-later
// Whoever writes back may begin I/O to get memory, though no filesystem may be asked, as before f90096c (2012).
//
// Users who swapped to a zvol saw it deadlock: the I/O that reclaim waits for is the zvol's own.
@a_mark_that_is_taken_back@
identifier cookie;
@@
-	fstrans_cookie_t cookie = spl_fstrans_mark();
+	unsigned int cookie = current->flags & PF_MEMALLOC_NOFS;
+	current->flags |= PF_MEMALLOC_NOFS;
	<...
-	spl_fstrans_unmark(cookie);
+	current->flags = (current->flags & ~PF_MEMALLOC_NOFS) | cookie;
	...>

@a_mark_for_good@
@@
-	(void) spl_fstrans_mark();
+	current->flags |= PF_MEMALLOC_NOFS;

@flags_of_an_allocation@
expression mask;
@@
-	kmem_flags_convert(mask)
+	(kmem_flags_convert(mask) & ~(current->flags & PF_MEMALLOC_NOFS ? __GFP_FS : 0))
