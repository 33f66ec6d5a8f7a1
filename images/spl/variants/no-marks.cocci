// SPDX-License-Identifier: GPL-2.0-or-later
// No thread is marked as one in which memory must not be reclaimed through I/O.
//
// The mark, spl_fstrans_mark(), also holds for what the kernel allocates by itself, page tables among it, since it has
// been PF_MEMALLOC_NOIO (openzfs/spl pull request 523, 2016): years after the worker and the emergency objects. Here
// __spl_cache_grow() and taskq_thread() lose it.
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
