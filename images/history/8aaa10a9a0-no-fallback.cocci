// SPDX-License-Identifier: GPL-2.0-or-later
// vmem_alloc() in a marked thread does not fall back to vmalloc, as before 8aaa10a9a0 (2019).
//
// A marked thread allocates without __GFP_IO and __GFP_FS, which was taken for an allocation that may not sleep. Where
// free memory lay in single pages it asked kmalloc() again and again.
@@
identifier mask;
@@
spl_kvmalloc(...)
{
	<...
-	(mask & __GFP_RECLAIM) != __GFP_RECLAIM
+	(mask & GFP_KERNEL) != GFP_KERNEL
	...>
}
