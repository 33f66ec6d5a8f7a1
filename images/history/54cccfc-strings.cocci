// SPDX-License-Identifier: GPL-2.0-or-later
// Strings are allocated with GFP_KERNEL in whichever thread, as before 54cccfc (2015).
//
// Who made one in a transaction could wait in reclaim for the transaction. Today a mark keeps reclaim away; where no
// thread is marked, flags alone do.
@@
identifier printer = {kmem_asprintf, kmem_vasprintf};
expression mask, form, list;
@@
printer(...)
{
	<...
	kvasprintf(
-	mask
+	GFP_KERNEL
	, form, list)
	...>
}
