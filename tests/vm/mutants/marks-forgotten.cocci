// SPDX-License-Identifier: GPL-2.0-or-later
// No thread is marked, so the page tables of a growth reclaim as any other: the worker is caught, on every kernel.
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
