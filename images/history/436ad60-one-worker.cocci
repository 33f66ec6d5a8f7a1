// SPDX-License-Identifier: GPL-2.0-or-later
// All caches have one worker together, as before 436ad60 (2015).
//
// While it was stuck with one cache, callers of every other one waited for it too, each until it timed out.
@@
expression name, threads, priority, least, most, flags;
@@
spl_kmem_cache_init(...)
{
	<...
	taskq_create(name,
-	threads
+	1
	, priority, least, most, flags)
	...>
}
