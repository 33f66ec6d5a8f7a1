// SPDX-License-Identifier: GPL-2.0-or-later
// A slab is asked of vmalloc with __GFP_RECLAIMABLE, as before a1319bf654 (2026).
//
// Since Linux 6.19 the kernel warns of the flag ("Unexpected gfp"). It was asked for by some caches alone; here by all.
@@
identifier mask;
expression size;
@@
kv_alloc(...)
{
	...
	spl_vmalloc(size,
-	mask
+	mask | __GFP_RECLAIMABLE
	)
	...
}
