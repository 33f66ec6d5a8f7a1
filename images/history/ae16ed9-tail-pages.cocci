// SPDX-License-Identifier: GPL-2.0-or-later
// The pages of an object are not compound, as before ae16ed9 (2014).
//
// A network that sends such an object takes a reference to one page of it; when that was dropped the page was freed
// under the others, and machines with a pool on Ceph's block device crashed. Today slabs come from vmalloc, and only
// emergency objects have several pages of one allocation.
@@
expression mask, order;
@@
spl_emergency_alloc(...)
{
	...
	__get_free_pages(
-	mask
+	mask & ~__GFP_COMP
	, order)
	...
}
