// SPDX-License-Identifier: GPL-2.0-or-later
// Memory of vmem_zalloc() is not zeroed, as before 8100fe5 (2008).
@@
identifier mask;
@@
spl_kmem_alloc_impl(...)
{
	...
-	gfp_t mask = kmem_flags_convert(flags);
+	gfp_t mask = kmem_flags_convert(flags & KM_VMEM ? flags & ~KM_ZERO : flags);
	...
}
