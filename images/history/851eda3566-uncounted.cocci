// SPDX-License-Identifier: GPL-2.0-or-later
// Objects of caches that the kernel's own allocator backs are not counted, as before 851eda3566 (2019).
//
// The slab file showed nothing of most caches, and users who looked for their memory could not see who had it.
@taken@
expression cache;
@@
spl_kmem_cache_alloc(...)
{
	<...
-	percpu_counter_inc(&cache->skc_linux_alloc);
+	;
	...>
}

@given_back@
expression cache;
@@
spl_kmem_cache_free(...)
{
	<...
-	percpu_counter_dec(&cache->skc_linux_alloc);
	...>
}
