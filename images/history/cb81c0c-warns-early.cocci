// SPDX-License-Identifier: GPL-2.0-or-later
// The kernel log tells of each kmem_alloc() of more than 32 KiB, as before cb81c0c (2016).
//
// Blocks of 16 MiB need more for their list of pages, so users had a stack in the log for each of them.
@@
@@
spl_kmem_alloc_impl(...)
{
	<...
-	(size > spl_kmem_alloc_warn)
+	(size > 32 * 1024)
	...>
}
