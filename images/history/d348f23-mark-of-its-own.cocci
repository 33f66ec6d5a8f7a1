// SPDX-License-Identifier: GPL-2.0-or-later
// SPL's mark of a thread is a bit of its own, which the kernel does not know, as before d348f23 (2016).
//
// SPL's own flags have GFP_NOIO in a marked thread then, but what the kernel allocates by itself, page tables among it,
// does not. Users saw threads of ZFS wait in reclaim for each other. The bit is one that kernels have no use for.
@a_mark_that_is_taken_back@
identifier cookie;
@@
-	fstrans_cookie_t cookie = spl_fstrans_mark();
+	unsigned int cookie = current->flags & 0x02000000;
+	current->flags |= 0x02000000;
	<...
-	spl_fstrans_unmark(cookie);
+	current->flags = (current->flags & ~0x02000000) | cookie;
	...>

@a_mark_for_good@
@@
-	(void) spl_fstrans_mark();
+	current->flags |= 0x02000000;

@flags_of_an_allocation@
expression mask;
@@
-	kmem_flags_convert(mask)
+	(kmem_flags_convert(mask) & ~(current->flags & 0x02000000 ? __GFP_IO | __GFP_FS : 0))
