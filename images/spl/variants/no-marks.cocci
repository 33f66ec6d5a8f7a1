// SPDX-License-Identifier: GPL-2.0-or-later
// No thread is marked as one in which memory must not be reclaimed through I/O.
//
// The mark (PF_MEMALLOC_NOIO, spl_fstrans_mark()) also holds for what the kernel allocates by itself, page tables
// among it. It came years after the worker and the emergency objects, to __spl_cache_grow() and to taskq_thread()
// (openzfs/spl pull requests 515 and 523, 2015 and 2016).
@mark_that_is_taken_back@
identifier cookie;
@@
-	fstrans_cookie_t cookie = spl_fstrans_mark();
	<...
-	spl_fstrans_unmark(cookie);
	...>

@mark_for_good@
@@
-	(void) spl_fstrans_mark();
