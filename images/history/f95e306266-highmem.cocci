// SPDX-License-Identifier: GPL-2.0-or-later
// A slab is asked of vmalloc with __GFP_HIGHMEM, as before f95e306266 (2025).
//
// Since Linux 6.19 the kernel warns of the flag ("Unexpected gfp"), and users saw that with each slab.
@@
identifier mask;
expression size;
@@
kv_alloc(...)
{
	...
	spl_vmalloc(size,
-	mask
+	mask | __GFP_HIGHMEM
	)
	...
}
