// SPDX-License-Identifier: GPL-2.0-or-later
// Memory that is to be zeroed is not, as that of vmem_zalloc() before 8100fe5 (2008).
@@
expression size;
identifier mask;
@@
spl_kmem_alloc_impl(...)
{
	...
-	gfp_t mask = kmem_flags_convert(flags);
+	gfp_t mask = kmem_flags_convert(flags) & ~__GFP_ZERO;
	...
}
