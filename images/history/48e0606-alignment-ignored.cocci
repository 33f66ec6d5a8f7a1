// SPDX-License-Identifier: GPL-2.0-or-later
// A cache ignores the alignment that it is asked for, as before 48e0606 (2009).
@@
expression cache;
symbol align;
@@
spl_kmem_cache_create(...)
{
	<...
-	cache->skc_obj_align = align;
	...>
}
