// SPDX-License-Identifier: GPL-2.0-or-later
// Whoever finds no object grows the cache by itself; there is no worker, no timeout and no emergency object.
//
// So it was before "Emergency slab objects" (openzfs/spl pull request 155, 2012). A caller that may not sleep gets
// nothing, because vmalloc() sleeps. What nobody calls any more is left out.
@grow@
expression bits;
identifier remaining;
statement dispatch, fall_back, wait;
@@
spl_cache_grow(...)
{
-	int remaining;
	...
-	if (test_and_set_bit(KMC_BIT_GROWING, bits) == 0) dispatch
-	if (test_bit(KMC_BIT_DEADLOCKED, bits)) fall_back else wait
+	rc = __spl_cache_grow(skc, flags);
	...
}

@may_not_sleep@
@@
spl_cache_grow(...)
{
	<...
-	return (spl_emergency_alloc(...));
+	return (-ENOMEM);
	...>
}

@unused_cache_grow_work@
type T;
@@
-	T spl_cache_grow_work(...) { ... }

@unused_cache_grow_wait@
type T;
@@
-	T spl_cache_grow_wait(...) { ... }

@unused_emergency_alloc@
type T;
@@
-	T spl_emergency_alloc(...) { ... }

@unused_emergency_insert@
type T;
@@
-	T spl_emergency_insert(...) { ... }
