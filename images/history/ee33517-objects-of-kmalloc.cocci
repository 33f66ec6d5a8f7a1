// SPDX-License-Identifier: GPL-2.0-or-later
// Emergency objects come from kmalloc(), as before ee33517 (2015).
//
// Small ones then lie in slabs of kmalloc(), which run out just when they are needed.
@an_allocation@
typedef spl_kmem_cache_t;
identifier cache;
expression object, mask, order;
@@
spl_emergency_alloc(spl_kmem_cache_t *cache, ...)
{
	<...
-	object->ske_obj = __get_free_pages(mask, order);
+	object->ske_obj = (unsigned long)kmalloc(cache->skc_obj_size, mask);
	...>
}

@@
expression object, order;
@@
-	free_pages(object->ske_obj, order);
+	(void) order;
+	kfree((void *)object->ske_obj);
